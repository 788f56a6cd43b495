{{/* What keeps a service's pods: Deployment, Services, identity, budget, scaling, scraping. */}}

{{- define "longhaul.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "longhaul.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
spec:
  {{- if not .Values.autoscaling.enabled }}
  replicas: {{ .Values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels:
      {{- include "longhaul.selector" . | nindent 6 }}
  strategy:
    {{- if eq .Values.global.database.kind "sqlite" }}
    type: Recreate # one process at a time owns an SQLite file
    {{- else }}
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
    {{- end }}
  template:
    metadata:
      labels:
        {{- include "longhaul.labels" . | nindent 8 }}
        longhaul.dev/endpoint: "true"
        {{- with .Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ include "longhaul.service" . }}
        {{- include "longhaul.checksums" . | nindent 8 }}
        {{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "longhaul.pod" . | nindent 6 }}
{{- end -}}

{{/* A changed ConfigMap replaces the pods that read it. */}}
{{- define "longhaul.checksums" -}}
{{- $service := include "longhaul.service" . -}}
{{- if eq $service "training" }}
longhaul.dev/pod-template-checksum: {{ include "longhaul.podTemplate" . | sha256sum | trunc 32 }}
{{- end }}
{{- if and (eq $service "gpuhealth") .Values.healthRules }}
longhaul.dev/rules-checksum: {{ .Values.healthRules | sha256sum | trunc 32 }}
{{- end }}
{{- end -}}

{{- define "longhaul.services" -}}
{{- $service := include "longhaul.service" . -}}
{{- $port := include "longhaul.port" . | int -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "longhaul.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
  {{- with .Values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .Values.service.type }}
  selector:
    {{- include "longhaul.selector" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ $port }}
      targetPort: grpc-{{ $service }}
      appProtocol: grpc
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "longhaul.fullname" . }}-pods
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
    longhaul.dev/scrape: "true"
spec:
  clusterIP: None # each pod has its address, so that gRPC clients balance over them
  selector:
    {{- include "longhaul.selector" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ $port }}
      targetPort: grpc-{{ $service }}
      appProtocol: grpc
    - name: metrics
      port: {{ add $port 100 }}
      targetPort: metrics
{{- end -}}

{{- define "longhaul.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "longhaul.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
  {{- with .Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end -}}

{{- define "longhaul.disruptionBudget" -}}
{{- if .Values.podDisruptionBudget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "longhaul.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .Values.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "longhaul.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "longhaul.autoscaler" -}}
{{- with .Values.autoscaling }}
{{- if .enabled }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "longhaul.fullname" $ }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "longhaul.labels" $ | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "longhaul.fullname" $ }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ .targetCpuPercent }}
    {{- if .metric.enabled }}
    - type: Pods
      pods:
        metric:
          name: {{ .metric.name }}
        target:
          type: AverageValue
          averageValue: {{ .metric.averageValue | quote }}
    {{- end }}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: {{ .scaleDownSeconds }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "longhaul.serviceMonitor" -}}
{{- with .Values.global.serviceMonitor }}
{{- if .enabled }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "longhaul.fullname" $ }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "longhaul.labels" $ | nindent 4 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  jobLabel: app.kubernetes.io/component
  selector:
    matchLabels:
      {{- include "longhaul.selector" $ | nindent 6 }}
      longhaul.dev/scrape: "true"
  endpoints:
    - port: metrics
      interval: {{ .interval }}
      path: /metrics
{{- end }}
{{- end }}
{{- end -}}
