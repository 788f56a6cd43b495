{{/* What lies under every training and task pod: security, writable folders, the release's volume. */}}

{{- define "longhaul.podTemplate" -}}
{{- $base := fromYaml (include "longhaul.ownPodTemplate" .) -}}
{{- $user := deepCopy .Values.global.runs.podTemplate -}}
{{- $spec := get $user "spec" | default dict -}}
{{- range $key := list "volumes" "tolerations" "imagePullSecrets" }}
{{- $_ := set $base.spec $key (concat (get $base.spec $key | default list) (get $spec $key | default list)) }}
{{- if not (get $base.spec $key) }}{{ $_ := unset $base.spec $key }}{{ end }}
{{- $_ := unset $spec $key }}
{{- end }}
{{- $main := first $base.spec.containers -}}
{{- $others := list -}}
{{- range $container := get $spec "containers" | default list }}
{{- if eq $container.name "main" }}
{{- range $key := list "env" "volumeMounts" }}
{{- $_ := set $main $key (concat (get $main $key) (get $container $key | default list)) }}
{{- $_ := unset $container $key }}
{{- end }}
{{- $main = mergeOverwrite $main $container }}
{{- else }}
{{- $others = append $others $container }}
{{- end }}
{{- end }}
{{- $_ := unset $spec "containers" -}}
{{- $merged := mergeOverwrite $base $user -}}
{{- $_ := set $merged.spec "containers" (prepend $others $main) -}}
{{- toYaml $merged -}}
{{- end -}}

{{- define "longhaul.ownPodTemplate" -}}
{{- $runs := .Values.global.runs -}}
metadata:
  labels:
    app.kubernetes.io/part-of: longhaul
    {{- with .Values.global.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "longhaul.pullSecrets" . | nindent 2 }}
  securityContext:
    {{- include "longhaul.podSecurity" . | nindent 4 }}
  containers:
    - name: main
      imagePullPolicy: {{ .Values.global.image.pullPolicy }}
      securityContext:
        {{- if $runs.rdma }}
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        runAsNonRoot: true
        capabilities: {drop: [ALL], add: [IPC_LOCK]}
        {{- else }}
        {{- include "longhaul.containerSecurity" . | nindent 8 }}
        {{- end }}
      env:
        - name: TRITON_CACHE_DIR
          value: /tmp/triton
        - name: TORCHINDUCTOR_CACHE_DIR
          value: /tmp/inductor
        {{- include "longhaul.writable" . | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- if include "longhaul.hasVolume" . }}
        - name: data # the store alone: databases are none of a pod's business
          mountPath: /var/lib/longhaul/objects
          subPath: objects
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    - name: scratch # longhaul mounts the volume of this name
      emptyDir: {{ if $runs.scratchSize }}{ sizeLimit: {{ $runs.scratchSize }} }{{ else }}{}{{ end }}
    {{- if include "longhaul.hasVolume" . }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ include "longhaul.claimName" . }}
    {{- end }}
{{- end -}}

{{- define "longhaul.podTemplateConfig" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "longhaul.fullname" . }}-pods
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
data:
  template.yaml: |
    {{- include "longhaul.podTemplate" . | nindent 4 }}
{{- end -}}

{{/* Pods of runs talk to one another, to training, checkpoint and the object store, and to nobody else. */}}
{{- define "longhaul.runNetworkPolicies" -}}
{{- if .Values.global.networkPolicy.enabled }}
{{- range $index, $namespace := fromJsonArray (include "longhaul.runNamespaces" .) }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "longhaul.clusterName" $ }}-pods
  namespace: {{ $namespace }}
  labels:
    {{- include "longhaul.labels" $ | nindent 4 }}
spec:
  podSelector:
    matchLabels: {longhaul.dev/managed-by: training}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - podSelector:
            matchLabels: {longhaul.dev/managed-by: training}
    - from:
        {{- toYaml ($.Values.global.networkPolicy.scrapers | default (list (dict "namespaceSelector" dict))) | nindent 8 }}
      ports:
        - {port: 7507, protocol: TCP}
  egress:
    {{- include "longhaul.dnsEgress" $ | nindent 4 }}
    - to:
        - podSelector:
            matchLabels: {longhaul.dev/managed-by: training}
    {{- range $service := list "training" "checkpoint" }}
    - to:
        - podSelector:
            matchLabels: {app.kubernetes.io/part-of: longhaul, app.kubernetes.io/component: {{ $service }}}
          namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: {{ $.Release.Namespace }}}
      ports:
        - {port: {{ get (fromJson (include "longhaul.ports" $)) $service }}, protocol: TCP}
    {{- end }}
    {{- if hasPrefix "s3:" $.Values.global.objectStore.url }}
    - to:
        {{- range $.Values.global.networkPolicy.externalCidrs }}
        - ipBlock: {cidr: {{ . | quote }}}
        {{- end }}
      ports:
        - {port: {{ $.Values.global.objectStore.port }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}
