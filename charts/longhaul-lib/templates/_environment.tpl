{{/* The environment by which a service reads its settings. */}}

{{- define "longhaul.token" -}}
{{- with .Values.global.auth }}
{{- if .existingSecret }}
- name: LONGHAUL_API_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "longhaul.users" -}}
{{- with .Values.global.auth }}
{{- if and .existingSecret .usersKey }}
- name: LONGHAUL_USERS_FILE
  value: /etc/longhaul/users/users.yaml
{{- end }}
{{- if and .existingSecret .podTokenKey }}
- name: LONGHAUL_POD_TOKEN_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .podTokenKey }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "longhaul.trust" -}}
{{- if ne .Values.global.tls.mode "none" }}
- name: LONGHAUL_TLS_CA
  value: /etc/longhaul/tls/ca.crt
{{- end }}
{{- end -}}

{{- define "longhaul.database" -}}
{{- if eq .Values.global.database.kind "postgresql" }}
- name: LONGHAUL_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.global.database.existingSecret }}
      key: {{ .Values.global.database.key }}
{{- end }}
{{- end -}}

{{/* Store credentials of a secret: (dict "secret" "name") */}}
{{- define "longhaul.storeCredentials" -}}
{{- if .secret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.secret }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Folders that libraries want to write to; the root is read-only. */}}
{{- define "longhaul.writable" -}}
- name: HOME
  value: /tmp
- name: TMPDIR
  value: /tmp
- name: NUMBA_CACHE_DIR
  value: /tmp/numba
- name: XDG_CACHE_HOME
  value: /tmp/cache
{{- end -}}

{{- define "longhaul.environment" -}}
{{- $service := include "longhaul.service" . -}}
{{- $port := include "longhaul.port" . | int -}}
{{- $global := .Values.global -}}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: LONGHAUL_LISTEN_ADDRESS
  value: "0.0.0.0:{{ $port }}"
- name: LONGHAUL_METRICS_ADDRESS
  value: "0.0.0.0:{{ add $port 100 }}"
- name: LONGHAUL_HEALTH_ADDRESS
  value: "0.0.0.0:{{ add $port 200 }}"
- name: LONGHAUL_ADVERTISE_ADDRESS
  value: "$(POD_IP):{{ $port }}"
- name: LONGHAUL_DATA_DIR
  value: /var/lib/longhaul
{{- include "longhaul.database" . }}
{{- with $global.objectStore.url }}
- name: LONGHAUL_OBJECT_STORE_URL
  value: {{ . | quote }}
{{- end }}
{{- include "longhaul.storeCredentials" (dict "secret" $global.objectStore.existingSecret) }}
{{- range $name, $_ := fromJson (include "longhaul.ports" .) }}
- name: LONGHAUL_{{ upper $name }}_ADDRESS
  value: {{ include "longhaul.addressOf" (dict "root" $ "service" $name) | quote }}
{{- end }}
{{- include "longhaul.token" . }}
{{- include "longhaul.users" . }}
{{- if ne $global.tls.mode "none" }}
- name: LONGHAUL_TLS_CERTIFICATE
  value: /etc/longhaul/tls/tls.crt
- name: LONGHAUL_TLS_KEY
  value: /etc/longhaul/tls/tls.key
{{- else }}
- name: LONGHAUL_ALLOW_INSECURE
  value: "true"
{{- end }}
{{- include "longhaul.trust" . }}
{{- if has $service (list "training" "gpuhealth") }}
- name: LONGHAUL_CLUSTER_URL
  value: {{ include "longhaul.clusterUrl" . | quote }}
{{- end }}
{{- if eq $service "training" }}
- name: LONGHAUL_CONTROLLER_ADDRESSES
  value: {{ include "longhaul.addressOf" (dict "root" . "service" "training") | quote }}
- name: LONGHAUL_TRAINER_IMAGE
  value: {{ include "longhaul.imageOf" (dict "root" . "image" $global.runs.image) | quote }}
- name: LONGHAUL_POD_METRICS_ADDRESS
  value: "0.0.0.0:7507"
{{- with $global.runs.existingSecret }}
- name: LONGHAUL_POD_SECRETS
  value: {{ . }}
{{- end }}
{{- end }}
{{- if has $service (list "ingest" "corpus") }}
- name: LONGHAUL_ENGINE
  value: {{ $global.engine.kind }}
- name: LONGHAUL_WORKERS
  value: {{ .Values.workers | quote }}
{{- if eq $global.engine.kind "ray" }}
- name: RAY_ADDRESS
  value: {{ include "longhaul.rayAddress" . | quote }}
{{- end }}
{{- end }}
{{- if and (eq $service "gpuhealth") .Values.healthRules }}
- name: LONGHAUL_RULES_FILE
  value: /etc/longhaul/rules/rules.yaml
{{- end }}
{{- if eq $service "gpuhealth" }}
{{- range $remedy := list "reset" "reboot" }}
{{- if get $.Values.repair $remedy }}
- name: LONGHAUL_{{ upper $remedy }}_JOB_TEMPLATE
  value: /etc/longhaul/repair/{{ $remedy }}.yaml
{{- end }}
{{- end }}
{{- end }}
- name: LONGHAUL_LOG_LEVEL
  value: {{ $global.log.level }}
- name: LONGHAUL_LOG_FORMAT
  value: {{ $global.log.format }}
- name: LONGHAUL_DRAIN_DELAY_SECONDS
  value: {{ .Values.drainDelaySeconds | quote }}
- name: LONGHAUL_SHUTDOWN_GRACE_SECONDS
  value: {{ .Values.shutdownGraceSeconds | quote }}
{{- range $key, $value := .Values.settings }}
- name: LONGHAUL_{{ upper $key }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{ include "longhaul.writable" . }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "longhaul.clusterUrl" -}}
{{- $runs := .Values.global.runs -}}
{{- $namespaces := fromJsonArray (include "longhaul.runNamespaces" .) -}}
{{- $query := dict "namespace" (first $namespaces) "scope" (join "," $namespaces) "gpu_resource" $runs.gpuResource "binding" (ternary "node" "scheduler" (and (eq $runs.binding "node") (eq $runs.gang "own"))) -}}
{{- if ne $runs.gang "own" }}{{ $_ := set $query "gang" $runs.gang }}{{ end -}}
{{- with $runs.queue }}{{ $_ := set $query "queue" . }}{{ end -}}
{{- if or $runs.rdma (eq $runs.podSecurity "privileged") }}{{ $_ := set $query "pod_security" "privileged" }}{{ end -}}
{{- if eq (include "longhaul.service" .) "training" }}{{ $_ := set $query "template" "/etc/longhaul/pods/template.yaml" }}{{ end -}}
{{- $_ := set $query "exporter_url" (include "longhaul.exporterUrls" .) -}}
{{- $pairs := list -}}
{{- range $key, $value := $query }}{{ $pairs = append $pairs (printf "%s=%s" $key ($value | urlquery)) }}{{ end -}}
kubernetes://?{{ join "&" $pairs }}
{{- end -}}

{{/* Where gpuhealth scrapes a node: the GPU exporter, and the agent beside it or in its place. */}}
{{- define "longhaul.exporterUrls" -}}
{{- $exporter := .Values.global.runs.exporterUrl | default (printf "http://{address}:%v/metrics" .Values.global.networkPolicy.exporterPort) -}}
{{- $agent := dict "enabled" false -}}
{{- if eq (include "longhaul.service" .) "gpuhealth" }}{{ $agent = .Values.agent }}{{ end -}}
{{- if not $agent.enabled }}{{ $exporter }}
{{- else if eq $agent.nvml "auto" }}http://{address}:{{ $agent.port }}/metrics
{{- else }}{{ $exporter }} http://{address}:{{ $agent.port }}/metrics
{{- end }}
{{- end -}}

{{- define "longhaul.rayAddress" -}}
{{- .Values.global.engine.rayAddress | default (printf "%s-ray-head-svc.%s.svc:6379" (include "longhaul.releaseName" .) .Release.Namespace) -}}
{{- end -}}
