{{/* The volume of SQLite and of a store that is a folder, once a release. */}}

{{- define "longhaul.storage" -}}
{{- $storage := .Values.global.storage -}}
{{- if and .Chart.IsRoot (include "longhaul.hasVolume" .) (not $storage.existingClaim) }}
{{- $name := include "longhaul.claimName" . -}}
{{- $local := $storage.local.node -}}
{{- if $local }}
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {{ .Release.Namespace }}-{{ $name }}
  labels:
    {{- include "longhaul.labelsOf" (dict "root" . "component" "storage") | nindent 4 }}
  {{- if $storage.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
spec:
  capacity:
    storage: {{ $storage.size }}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef:
    namespace: {{ .Release.Namespace }}
    name: {{ $name }}
  local:
    path: {{ $storage.local.path }}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchFields:
            - {key: metadata.name, operator: In, values: [{{ $local | quote }}]}
---
{{- end }}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ $name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labelsOf" (dict "root" . "component" "storage") | nindent 4 }}
  {{- if $storage.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
spec:
  accessModes: [ReadWriteOnce]
  {{- if $local }}
  storageClassName: ""
  volumeName: {{ .Release.Namespace }}-{{ $name }}
  {{- else if not (kindIs "invalid" $storage.storageClassName) }}
  storageClassName: {{ $storage.storageClassName | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ $storage.size }}
{{- end }}
{{- end -}}
