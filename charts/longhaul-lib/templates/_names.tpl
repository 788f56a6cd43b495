{{/* Names, labels, images and addresses. A chart's service is its name without the prefix. */}}

{{- define "longhaul.service" -}}
{{- trimPrefix "longhaul-" .Chart.Name -}}
{{- end -}}

{{/* The chart's name, under an alias too. */}}
{{- define "longhaul.chartName" -}}
{{- if eq .Chart.Name "longhaul" }}longhaul{{ else }}longhaul-{{ include "longhaul.service" . }}{{ end -}}
{{- end -}}

{{- define "longhaul.ports" -}}
{"ingest": 7401, "corpus": 7402, "training": 7403, "checkpoint": 7404, "evaluation": 7405, "gpuhealth": 7406}
{{- end -}}

{{/* Metrics are 100 above the API, health without TLS 200 above. */}}
{{- define "longhaul.port" -}}
{{- get (fromJson (include "longhaul.ports" .)) (include "longhaul.service" .) -}}
{{- end -}}

{{- define "longhaul.releaseName" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "longhaul.fullname" -}}
{{- printf "%s-%s" (include "longhaul.releaseName" .) (include "longhaul.service" .) -}}
{{- end -}}

{{/* A name that is unique in the cluster, for objects outside of namespaces. */}}
{{- define "longhaul.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "longhaul.fullname" .) -}}
{{- end -}}

{{- define "longhaul.releaseLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: longhaul
{{- end -}}

{{- define "longhaul.commonLabels" -}}
{{ include "longhaul.releaseLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "longhaul.chartName" . }}-{{ .Chart.Version | replace "+" "_" }}
{{- with .Values.global.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "longhaul.selector" -}}
{{ include "longhaul.releaseLabels" . }}
app.kubernetes.io/component: {{ include "longhaul.service" . }}
{{- end -}}

{{- define "longhaul.labels" -}}
app.kubernetes.io/name: {{ include "longhaul.chartName" . }}
app.kubernetes.io/component: {{ include "longhaul.service" . }}
{{ include "longhaul.commonLabels" . }}
{{- end -}}

{{/* Labels of what belongs to the release and to no service: (dict "root" $ "component" "hook") */}}
{{- define "longhaul.labelsOf" -}}
app.kubernetes.io/name: longhaul
app.kubernetes.io/component: {{ .component }}
{{ include "longhaul.commonLabels" .root }}
{{- end -}}

{{/* (dict "root" $ "image" (dict "repository" "tag" "digest")) */}}
{{- define "longhaul.imageOf" -}}
{{- $global := .root.Values.global.image -}}
{{- $name := .image.repository -}}
{{- if $global.registry }}{{ $name = printf "%s/%s" $global.registry $name }}{{ end -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ .image.tag | default $global.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "longhaul.image" -}}
{{- include "longhaul.imageOf" (dict "root" . "image" .Values.image) -}}
{{- end -}}

{{- define "longhaul.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "longhaul.serviceAccountName" -}}
{{- if .Values.serviceAccount.name -}}
{{ .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create -}}
{{ include "longhaul.fullname" . }}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* host:port of a service by its headless name, so that clients balance over its pods: (dict "root" $ "service" "corpus") */}}
{{- define "longhaul.addressOf" -}}
{{- $given := get .root.Values.global.addresses .service -}}
{{- if $given -}}
{{ $given }}
{{- else -}}
{{ include "longhaul.hostOf" . }}:{{ get (fromJson (include "longhaul.ports" .root)) .service }}
{{- end -}}
{{- end -}}

{{- define "longhaul.hostOf" -}}
{{ include "longhaul.releaseName" .root }}-{{ .service }}-pods.{{ .root.Release.Namespace }}.svc
{{- end -}}

{{/* Namespaces of runs, as JSON; the first is that of the project `default`. */}}
{{- define "longhaul.runNamespaces" -}}
{{- .Values.global.runs.namespaces | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{/* Whether anything lies on a volume: "yes" or nothing. */}}
{{- define "longhaul.hasVolume" -}}
{{- $store := .Values.global.objectStore.url -}}
{{- if or (eq .Values.global.database.kind "sqlite") (eq $store "") (hasPrefix "file:" $store) }}yes{{ end -}}
{{- end -}}

{{- define "longhaul.claimName" -}}
{{- .Values.global.storage.existingClaim | default (printf "%s-data" (include "longhaul.releaseName" .)) -}}
{{- end -}}
