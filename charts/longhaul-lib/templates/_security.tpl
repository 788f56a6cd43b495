{{/* Pod Security "restricted" for every pod of every chart. */}}

{{- define "longhaul.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.global.runAsUser | int64 }}
runAsGroup: {{ .Values.global.runAsUser | int64 }}
fsGroup: {{ .Values.global.runAsUser | int64 }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "longhaul.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}
