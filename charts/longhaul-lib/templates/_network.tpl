{{/* The ways between services, and nothing else. */}}

{{/* Who calls whom. */}}
{{- define "longhaul.calls" -}}
{"ingest": [], "corpus": ["ingest"], "training": ["corpus", "checkpoint", "gpuhealth"], "checkpoint": ["training"],
 "evaluation": ["training", "checkpoint", "corpus"], "gpuhealth": []}
{{- end -}}

{{- define "longhaul.networkPolicy" -}}
{{- $policy := .Values.global.networkPolicy -}}
{{- if $policy.enabled }}
{{- $service := include "longhaul.service" . -}}
{{- $port := include "longhaul.port" . | int -}}
{{- $calls := fromJson (include "longhaul.calls" .) -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "longhaul.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "longhaul.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {port: {{ $port }}, protocol: TCP}
      from:
        - podSelector:
            matchLabels: {longhaul.dev/client: "true"}
        {{- range $caller, $called := $calls }}
        {{- if has $service $called }}
        - podSelector:
            matchLabels: {app.kubernetes.io/part-of: longhaul, app.kubernetes.io/component: {{ $caller }}}
        {{- end }}
        {{- end }}
        {{- if has $service (list "training" "checkpoint") }}
        {{- range fromJsonArray (include "longhaul.runNamespaces" .) }}
        - podSelector:
            matchLabels: {longhaul.dev/managed-by: training}
          namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: {{ . }}}
        {{- end }}
        {{- end }}
        {{- with $policy.clients }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    - ports:
        - {port: {{ add $port 100 }}, protocol: TCP}
      from:
        {{- toYaml ($policy.scrapers | default (list (dict "namespaceSelector" dict))) | nindent 8 }}
    - ports: # a kubelet's probes, which most networks let through anyway
        - {port: {{ add $port 200 }}, protocol: TCP}
  egress:
    {{- include "longhaul.dnsEgress" . | nindent 4 }}
    {{- range get $calls $service }}
    - to:
        - podSelector:
            matchLabels: {app.kubernetes.io/part-of: longhaul, app.kubernetes.io/component: {{ . }}}
      ports:
        - {port: {{ get (fromJson (include "longhaul.ports" $)) . }}, protocol: TCP}
    {{- end }}
    {{- include "longhaul.externalEgress" . | nindent 4 }}
    {{- if and (has $service (list "ingest" "corpus")) (eq .Values.global.engine.kind "ray") }}
    - to:
        - podSelector:
            matchLabels: {ray.io/cluster: {{ include "longhaul.releaseName" . }}-ray}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "longhaul.dnsEgress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* Database, object store, API server, exporters: whichever a service has to do with. */}}
{{- define "longhaul.externalEgress" -}}
{{- $service := include "longhaul.service" . -}}
{{- $policy := .Values.global.networkPolicy -}}
{{- $ports := list -}}
{{- if eq .Values.global.database.kind "postgresql" }}{{ $ports = append $ports (.Values.global.database.port | int) }}{{ end -}}
{{- if hasPrefix "s3:" .Values.global.objectStore.url }}{{ $ports = append $ports (.Values.global.objectStore.port | int) }}{{ end -}}
{{- if eq $service "ingest" }}{{ $ports = concat $ports (list 80 443) }}{{ end -}}
{{- if has $service (list "training" "gpuhealth") }}{{ range $policy.kubernetesApiPorts }}{{ $ports = append $ports (. | int) }}{{ end }}{{ end -}}
{{- if eq $service "gpuhealth" }}{{ $ports = append $ports ($policy.exporterPort | int) }}{{ end -}}
{{- if and (eq $service "gpuhealth") .Values.agent.enabled }}{{ $ports = append $ports (.Values.agent.port | int) }}{{ end -}}
{{- with $ports | uniq }}
- to:
    {{- range $policy.externalCidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- range . }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end -}}
