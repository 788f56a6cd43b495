{{/* Everything of a service's chart, one document after the other. */}}

{{- define "longhaul.all" -}}
{{- range $part := list "deployment" "services" "serviceAccount" "access" "networkPolicy" "disruptionBudget" "autoscaler" "serviceMonitor" "storage" "certificates" "certificateHook" "migration" "hookNetworkPolicy" "test" }}
{{- with include (printf "longhaul.%s" $part) $ | trim }}
---
{{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "longhaul.serviceNotes" -}}
{{- $name := include "longhaul.fullname" . -}}
{{- $port := include "longhaul.port" . -}}
{{ .Chart.Name }} {{ .Chart.AppVersion }} is being installed as {{ $name }}.

  kubectl -n {{ .Release.Namespace }} rollout status deployment/{{ $name }}
  helm -n {{ .Release.Namespace }} test {{ .Release.Name }}
  kubectl -n {{ .Release.Namespace }} port-forward service/{{ $name }} {{ $port }}
{{- if eq .Values.global.tls.mode "none" }}

Calls are plain text: `global.tls.mode` is none.
{{- end }}
{{- if not .Values.global.auth.existingSecret }}

No token is asked for: whom the network policy lets through may do everything. Set `global.auth.existingSecret`.
{{- end }}
{{- end -}}
