{{/* Permissions on the Kubernetes API: training touches pods in run namespaces; gpuhealth alone patches nodes, and reads
     pods to know which run uses which GPU. */}}

{{- define "longhaul.access" -}}
{{- $service := include "longhaul.service" . -}}
{{- if and .Values.rbac.create (has $service (list "training" "gpuhealth")) }}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "longhaul.clusterName" . }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: [nodes]
    verbs: {{ if eq $service "gpuhealth" }}[get, list, watch, patch]{{ else }}[get, list, watch]{{ end }}
  {{- if eq $service "gpuhealth" }}
  - apiGroups: [""]
    resources: [nodes/status]
    verbs: [patch]
  - apiGroups: [""]
    resources: [pods]
    verbs: [get, list, watch{{ if or (get .Values.settings "reset_pod_template") (get .Values.settings "reboot_pod_template") }}, create{{ end }}]
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ include "longhaul.clusterName" . }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ include "longhaul.clusterName" . }}
subjects:
  - kind: ServiceAccount
    name: {{ include "longhaul.serviceAccountName" . }}
    namespace: {{ .Release.Namespace }}
{{- if eq $service "training" }}
{{- range fromJsonArray (include "longhaul.runNamespaces" .) }}
---
{{ include "longhaul.runAccess" (dict "root" $ "namespace" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "longhaul.runAccess" -}}
{{- $name := include "longhaul.clusterName" .root -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "longhaul.labels" .root | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: [pods]
    verbs: [get, list, watch, create, delete]
  - apiGroups: [""]
    resources: [pods/log]
    verbs: [get]
  - apiGroups: [""]
    resources: [events]
    verbs: [list]
  - apiGroups: [""] # what owns the pods of a run, so that they go with it
    resources: [configmaps]
    verbs: [get, list, create, delete]
  {{- $group := get (dict "coscheduling" "scheduling.x-k8s.io" "volcano" "scheduling.volcano.sh") .root.Values.global.runs.gang }}
  {{- with $group }}
  - apiGroups: [{{ . }}]
    resources: [podgroups]
    verbs: [get, create, delete]
  {{- end }}
  {{- if eq .root.Values.global.runs.gang "kueue" }}
  - apiGroups: [kueue.x-k8s.io] # what keeps the place of a run's pods in the queue, once they are gone
    resources: [workloads]
    verbs: [delete]
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "longhaul.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "longhaul.serviceAccountName" .root }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}
