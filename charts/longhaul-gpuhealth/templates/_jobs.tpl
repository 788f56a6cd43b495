{{/* Repair Jobs as gpuhealth fills them in: it adds name, node, labels, tolerations, and LONGHAUL_* to the environment. */}}

{{- define "longhaul-gpuhealth.jobPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "longhaul.pullSecrets" . }}
hostPID: true
securityContext: {runAsUser: 0, seccompProfile: {type: RuntimeDefault}}
{{- end -}}

{{- define "longhaul-gpuhealth.resetJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  namespace: {{ .Values.nodeWork.namespace }}
spec:
  backoffLimit: 2
  activeDeadlineSeconds: 900
  template:
    spec:
      {{- include "longhaul-gpuhealth.jobPod" . | nindent 6 }}
      restartPolicy: Never
      containers:
        - name: reset
          image: {{ include "longhaul.image" . }}
          # All GPUs where none is named: NVLink neighbours must be reset together.
          command:
            - /bin/sh
            - -ceu
            - |
              if [ -z "$LONGHAUL_GPU_UUIDS" ]; then exec nvidia-smi --gpu-reset; fi
              nvidia-smi --gpu-reset -i "$LONGHAUL_GPU_UUIDS" || exec nvidia-smi --gpu-reset
          env:
            - {name: NVIDIA_VISIBLE_DEVICES, value: all}
            - {name: NVIDIA_DRIVER_CAPABILITIES, value: utility}
          resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 512Mi}}
          securityContext: {privileged: true, readOnlyRootFilesystem: true}
{{- end -}}

{{- define "longhaul-gpuhealth.rebootJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  namespace: {{ .Values.nodeWork.namespace }}
spec:
  backoffLimit: 6
  activeDeadlineSeconds: 1800
  template:
    spec:
      {{- include "longhaul-gpuhealth.jobPod" . | nindent 6 }}
      restartPolicy: OnFailure
      containers:
        - name: reboot
          image: {{ include "longhaul.image" . }}
          # The boot before the reboot is noted on the host; started again in another one, the Job is done.
          command:
            - /bin/sh
            - -ceu
            - |
              mark="/host/longhaul-reboot-$LONGHAUL_SESSION"
              boot=$(cat /proc/sys/kernel/random/boot_id)
              if [ -f "$mark" ] && [ "$(cat "$mark")" != "$boot" ]; then rm "$mark"; exit 0; fi
              echo "$boot" > "$mark"
              sync
              nsenter --target 1 --mount --uts --ipc --net systemctl reboot
              sleep 600
              exit 1
          resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {memory: 128Mi}}
          securityContext: {privileged: true, readOnlyRootFilesystem: true}
          volumeMounts:
            - {name: host, mountPath: /host}
      volumes:
        - name: host
          hostPath: {path: /var/lib/longhaul-repair, type: DirectoryOrCreate}
{{- end -}}
