{{/* The pod of a service: one container on a read-only root, probed on the port of health alone. */}}

{{- define "longhaul.tlsVolume" -}}
{{- $tls := .root.Values.global.tls -}}
{{- if ne $tls.mode "none" }}
- name: tls
  secret:
    secretName: {{ if eq $tls.mode "existingSecret" }}{{ $tls.existingSecret }}{{ else }}{{ include "longhaul.releaseName" .root }}-{{ .service }}-tls{{ end }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "longhaul.tlsMount" -}}
{{- if ne .Values.global.tls.mode "none" }}
- name: tls
  mountPath: /etc/longhaul/tls
  readOnly: true
{{- end }}
{{- end -}}

{{- define "longhaul.probe" -}}
grpc:
  port: {{ add (include "longhaul.port" .root | int) 200 }}
  {{- with .name }}
  service: {{ . }} # the process, which may still wait for its database
  {{- end }}
periodSeconds: {{ .root.Values.probes.periodSeconds }}
timeoutSeconds: {{ .root.Values.probes.timeoutSeconds }}
{{- end -}}

{{- define "longhaul.pod" -}}
{{- $service := include "longhaul.service" . -}}
{{- $port := include "longhaul.port" . | int -}}
{{- $ray := and (eq .Values.global.engine.kind "ray") (has $service (list "ingest" "corpus")) -}}
serviceAccountName: {{ include "longhaul.serviceAccountName" . }}
automountServiceAccountToken: {{ has $service (list "training" "gpuhealth") }}
enableServiceLinks: false
securityContext:
  {{- include "longhaul.podSecurity" . | nindent 2 }}
{{- include "longhaul.pullSecrets" . }}
terminationGracePeriodSeconds: {{ add (ceil .Values.drainDelaySeconds) (mul 2 (ceil .Values.shutdownGraceSeconds)) 10 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .Values.topologySpread.topologyKey }}
    whenUnsatisfiable: {{ .Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "longhaul.selector" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- if $ray }}
initContainers:
  {{- include "longhaul.rayNode" . | nindent 2 }}
{{- end }}
containers:
  - name: {{ $service }}
    image: {{ include "longhaul.image" . }}
    imagePullPolicy: {{ .Values.global.image.pullPolicy }}
    command: [python, -m, longhaul_{{ $service }}]
    env:
      {{- include "longhaul.environment" . | nindent 6 }}
    {{- with .Values.extraEnvFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    ports:
      - name: grpc-{{ $service }}
        containerPort: {{ $port }}
      - name: metrics
        containerPort: {{ add $port 100 }}
      - name: health
        containerPort: {{ add $port 200 }}
    startupProbe:
      {{- include "longhaul.probe" (dict "root" . "name" "live") | nindent 6 }}
      failureThreshold: {{ div .Values.probes.startupSeconds .Values.probes.periodSeconds | max 1 }}
    readinessProbe:
      {{- include "longhaul.probe" (dict "root" . "name" "") | nindent 6 }}
      failureThreshold: 2
    livenessProbe:
      {{- include "longhaul.probe" (dict "root" . "name" "live") | nindent 6 }}
      failureThreshold: 6
    {{- with .Values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      {{- include "longhaul.containerSecurity" . | nindent 6 }}
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      - name: data
        mountPath: /var/lib/longhaul
      {{- with include "longhaul.tlsMount" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if and .Values.global.auth.existingSecret .Values.global.auth.usersKey }}
      - name: users
        mountPath: /etc/longhaul/users
        readOnly: true
      {{- end }}
      {{- if eq $service "training" }}
      - name: pods
        mountPath: /etc/longhaul/pods
        readOnly: true
      {{- end }}
      {{- if and (eq $service "gpuhealth") .Values.healthRules }}
      - name: rules
        mountPath: /etc/longhaul/rules
        readOnly: true
      {{- end }}
      {{- if and (eq $service "gpuhealth") (or .Values.repair.reset .Values.repair.reboot) }}
      - name: repair
        mountPath: /etc/longhaul/repair
        readOnly: true
      {{- end }}
      {{- if $ray }}
      - name: ray
        mountPath: /tmp/ray
      - name: shared-memory
        mountPath: /dev/shm
      {{- end }}
      {{- with .Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: {{ .Values.scratchSize }}
  - name: data
    {{- if include "longhaul.hasVolume" . }}
    persistentVolumeClaim:
      claimName: {{ include "longhaul.claimName" . }}
    {{- else }}
    emptyDir:
      sizeLimit: {{ .Values.scratchSize }}
    {{- end }}
  {{- with include "longhaul.tlsVolume" (dict "root" . "service" $service) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .Values.global.auth }}
  {{- if and .existingSecret .usersKey }}
  - name: users
    secret:
      secretName: {{ .existingSecret }}
      items:
        - {key: {{ .usersKey }}, path: users.yaml}
      defaultMode: 0440
  {{- end }}
  {{- end }}
  {{- if eq $service "training" }}
  - name: pods
    configMap:
      name: {{ include "longhaul.fullname" . }}-pods
  {{- end }}
  {{- if and (eq $service "gpuhealth") .Values.healthRules }}
  - name: rules
    configMap:
      name: {{ include "longhaul.fullname" . }}-rules
  {{- end }}
  {{- if and (eq $service "gpuhealth") (or .Values.repair.reset .Values.repair.reboot) }}
  - name: repair
    configMap:
      name: {{ include "longhaul.fullname" . }}-repair
  {{- end }}
  {{- if $ray }}
  - name: ray
    emptyDir: {}
  - name: shared-memory
    emptyDir:
      medium: Memory
      sizeLimit: 1Gi
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Ray's own client protocol has no streaming tasks, so a Ray node without CPUs runs beside the service. */}}
{{- define "longhaul.rayNode" -}}
- name: ray
  image: {{ include "longhaul.imageOf" (dict "root" . "image" (dict "repository" .Values.global.engine.rayImage "tag" "" "digest" "")) }}
  imagePullPolicy: {{ .Values.global.image.pullPolicy }}
  restartPolicy: Always
  command: [ray, start, --address={{ include "longhaul.rayAddress" . }}, --num-cpus=0, --block]
  env:
    - name: RAY_USAGE_STATS_ENABLED
      value: "0"
    {{- include "longhaul.writable" . | nindent 4 }}
  resources:
    requests: {cpu: 250m, memory: 512Mi}
    limits: {memory: 2Gi}
  securityContext:
    {{- include "longhaul.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    - name: ray
      mountPath: /tmp/ray
    - name: shared-memory
      mountPath: /dev/shm
{{- end -}}
