{{/* Jobs around a release: certificates and migration before pods start, the guard before they go, the test. */}}

{{- define "longhaul.hookName" -}}
{{- if eq .Chart.Name "longhaul" }}{{ include "longhaul.releaseName" . }}{{ else }}{{ include "longhaul.fullname" . }}{{ end -}}
{{- end -}}

{{/* The image of the chart's service; of the umbrella chart, that of training. */}}
{{- define "longhaul.hookImage" -}}
{{- $training := get .Values "training" | default dict -}}
{{- $image := .Values.image | default (get $training "image") | default dict -}}
{{- $image = mergeOverwrite (dict "repository" "longhaul/training" "tag" "" "digest" "") (deepCopy $image) -}}
{{- include "longhaul.imageOf" (dict "root" . "image" $image) -}}
{{- end -}}

{{/* (dict "root" $ "component" "hook" "events" "pre-install,pre-upgrade" "weight" 0) */}}
{{- define "longhaul.hookMetadata" -}}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "longhaul.labelsOf" (dict "root" .root "component" "hook") | nindent 2 }}
annotations:
  helm.sh/hook: {{ .events }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* A pod that runs one program of an image once: (dict "root" "component" "command" "env" "mounts" "volumes" "account") */}}
{{- define "longhaul.oncePod" -}}
restartPolicy: Never
serviceAccountName: {{ .account | default "default" }}
automountServiceAccountToken: {{ if .account }}true{{ else }}false{{ end }}
enableServiceLinks: false
securityContext:
  {{- include "longhaul.podSecurity" .root | nindent 2 }}
{{- include "longhaul.pullSecrets" .root }}
containers:
  - name: {{ .name }}
    image: {{ include "longhaul.hookImage" .root }}
    imagePullPolicy: {{ .root.Values.global.image.pullPolicy }}
    command: {{ toJson .command }}
    env:
      {{- include "longhaul.writable" .root | nindent 6 }}
      {{- with .env }}
      {{- . | nindent 6 }}
      {{- end }}
    resources:
      requests: {cpu: 100m, memory: 256Mi}
      limits: {memory: 512Mi}
    securityContext:
      {{- include "longhaul.containerSecurity" .root | nindent 6 }}
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- if and .authority (ne .root.Values.global.tls.mode "none") }}
      - name: tls
        mountPath: /etc/longhaul/tls
        readOnly: true
      {{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 1Gi
  {{- if and .authority (ne .root.Values.global.tls.mode "none") }}
  - name: tls
    secret:
      secretName: {{ if eq .root.Values.global.tls.mode "existingSecret" }}{{ .root.Values.global.tls.existingSecret }}{{ else }}{{ include "longhaul.releaseName" .root }}-{{ .authority }}-tls{{ end }}
      items:
        - {key: ca.crt, path: ca.crt}
      defaultMode: 0440
  {{- end }}
{{- end -}}

{{/* A Job that is a hook: as above, with "events", "weight" and "timeout". */}}
{{- define "longhaul.hookJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "longhaul.hookName" .root }}-{{ .name }}
  {{- include "longhaul.hookMetadata" . | nindent 2 }}
spec:
  backoffLimit: {{ dig "retries" 3 . }}
  activeDeadlineSeconds: {{ .timeout | default 300 }}
  template:
    metadata:
      labels:
        {{- include "longhaul.labelsOf" (dict "root" .root "component" "hook") | nindent 8 }}
    spec:
      {{- include "longhaul.oncePod" . | nindent 6 }}
{{- end -}}

{{/* PostgreSQL's schema is brought up to date once, before any pod of the new version starts. */}}
{{- define "longhaul.migration" -}}
{{- $global := .Values.global -}}
{{- if and .Chart.IsRoot $global.migration.enabled (eq $global.database.kind "postgresql") }}
{{- include "longhaul.hookJob" (dict
  "root" . "name" "migrate" "events" "pre-install,pre-upgrade" "weight" 0
  "timeout" $global.migration.timeoutSeconds
  "command" (list "python" "-m" "longhaul_core.db.migrate")
  "env" (include "longhaul.database" . | trim)) }}
{{- end }}
{{- end -}}

{{- define "longhaul.certificateNames" -}}
{{- $name := printf "%s-%s" (include "longhaul.releaseName" .root) .service -}}
{{- $names := list "localhost" (printf "%s.longhaul" .service) -}}
{{- range $base := list $name (printf "%s-pods" $name) }}
{{- range $suffix := list "" (printf ".%s" $.root.Release.Namespace) (printf ".%s.svc" $.root.Release.Namespace) (printf ".%s.svc.cluster.local" $.root.Release.Namespace) }}
{{- $names = append $names (printf "%s%s" $base $suffix) }}
{{- end }}
{{- end }}
{{- concat $names .root.Values.global.tls.extraNames | uniq | toJson -}}
{{- end -}}

{{/* Services whose certificates this release makes. */}}
{{- define "longhaul.certified" -}}
{{- if eq .Chart.Name "longhaul" -}}
{{- $services := list -}}
{{- range $name, $_ := fromJson (include "longhaul.ports" .) }}
{{- if (get $.Values $name).enabled }}{{ $services = append $services $name }}{{ end }}
{{- end }}
{{- toJson $services -}}
{{- else -}}
{{- list (include "longhaul.service" .) | toJson -}}
{{- end -}}
{{- end -}}

{{- define "longhaul.certificateHook" -}}
{{- if and .Chart.IsRoot (eq .Values.global.tls.mode "generated") }}
{{- $name := printf "%s-certificates" (include "longhaul.hookName" .) -}}
{{- $authority := printf "%s-ca" (include "longhaul.hookName" .) -}}
{{- $options := list "--namespace" .Release.Namespace "--authority" $authority "--label" "app.kubernetes.io/part-of=longhaul" "--label" (printf "app.kubernetes.io/instance=%s" .Release.Name) -}}
{{- $secrets := list $authority -}}
{{- range $service := fromJsonArray (include "longhaul.certified" .) }}
{{- $secret := printf "%s-%s-tls" (include "longhaul.releaseName" $) $service }}
{{- $secrets = append $secrets $secret }}
{{- $names := fromJsonArray (include "longhaul.certificateNames" (dict "root" $ "service" $service)) }}
{{- $options = concat $options (list "--certificate" (printf "%s=%s" $secret (join "," $names))) }}
{{- end }}
{{- $access := dict "root" . "events" "pre-install,pre-upgrade,pre-delete" "weight" -20 }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  {{- include "longhaul.hookMetadata" $access | nindent 2 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  {{- include "longhaul.hookMetadata" $access | nindent 2 }}
rules:
  - apiGroups: [""]
    resources: [secrets]
    verbs: [create]
  - apiGroups: [""]
    resources: [secrets]
    resourceNames: {{ toJson $secrets }}
    verbs: [get, update, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  {{- include "longhaul.hookMetadata" $access | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $name }}
    namespace: {{ .Release.Namespace }}
---
{{ include "longhaul.hookJob" (dict
  "root" . "name" "certificates" "events" "pre-install,pre-upgrade" "weight" -10 "account" $name
  "command" (concat (list "python" "-m" "longhaul_core.certificates" "ensure") $options)) }}
---
{{ include "longhaul.hookJob" (dict
  "root" . "name" "certificates-removal" "events" "pre-delete" "weight" 10 "account" $name
  "command" (concat (list "python" "-m" "longhaul_core.certificates" "remove") $options)) }}
{{- end }}
{{- end -}}

{{- define "longhaul.certificates" -}}
{{- if and .Chart.IsRoot (eq .Values.global.tls.mode "certManager") }}
{{- range $service := fromJsonArray (include "longhaul.certified" .) }}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ include "longhaul.releaseName" $ }}-{{ $service }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "longhaul.labelsOf" (dict "root" $ "component" $service) | nindent 4 }}
spec:
  secretName: {{ include "longhaul.releaseName" $ }}-{{ $service }}-tls
  issuerRef:
    group: cert-manager.io
    kind: {{ $.Values.global.tls.issuer.kind }}
    name: {{ $.Values.global.tls.issuer.name }}
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  dnsNames:
    {{- include "longhaul.certificateNames" (dict "root" $ "service" $service) | fromJsonArray | toYaml | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Pods of hooks and tests reach the services, the database and the API server, and nobody reaches them. */}}
{{- define "longhaul.hookNetworkPolicy" -}}
{{- $policy := .Values.global.networkPolicy -}}
{{- if and .Chart.IsRoot $policy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "longhaul.hookName" . }}-hooks
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labelsOf" (dict "root" . "component" "hook") | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "longhaul.releaseLabels" . | nindent 6 }}
    matchExpressions:
      - {key: app.kubernetes.io/component, operator: In, values: [hook, test]}
  policyTypes: [Ingress, Egress]
  egress:
    {{- include "longhaul.dnsEgress" . | nindent 4 }}
    - to:
        - podSelector:
            matchLabels: {app.kubernetes.io/part-of: longhaul}
    - to:
        {{- range $policy.externalCidrs }}
        - ipBlock: {cidr: {{ . | quote }}}
        {{- end }}
      ports:
        {{- if eq .Values.global.database.kind "postgresql" }}
        - {port: {{ .Values.global.database.port }}, protocol: TCP}
        {{- end }}
        {{- range $policy.kubernetesApiPorts }}
        - {port: {{ . }}, protocol: TCP}
        {{- end }}
{{- end }}
{{- end -}}

{{/* `helm test`: a real call to the service, with its token and over TLS. */}}
{{- define "longhaul.test" -}}
{{- if .Values.global.test.enabled }}
{{- $service := include "longhaul.service" . -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "longhaul.fullname" . }}-test
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "longhaul.labelsOf" (dict "root" . "component" "test") | nindent 4 }}
    longhaul.dev/client: "true"
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  {{- include "longhaul.oncePod" (dict
    "root" . "name" "check" "authority" $service
    "command" (list "python" "-m" "longhaul_core.rpc.check" (printf "%s.%s.svc:%s" (include "longhaul.fullname" .) .Release.Namespace (include "longhaul.port" .)))
    "env" (printf "%s%s" (include "longhaul.token" .) (include "longhaul.trust" .) | trim)) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Before a removal: fails while runs or tasks live. After a refusal Helm takes no upgrade, so that a ConfigMap can force
     it too; a variable that is not there stays `$(FORCE_REMOVAL)`. */}}
{{- define "longhaul.guard" -}}
{{- include "longhaul.hookJob" (dict
  "root" . "name" "guard" "events" "pre-delete" "weight" 0 "authority" "training" "retries" 0
  "command" (list "python" "-m" "longhaul_training.guard" (ternary "--force=true" "--force=$(FORCE_REMOVAL)" .Values.uninstall.force))
  "env" (include "longhaul.guardEnvironment" . | trim)) }}
{{- end -}}

{{- define "longhaul.guardEnvironment" -}}
- name: FORCE_REMOVAL
  valueFrom:
    configMapKeyRef:
      name: {{ include "longhaul.releaseName" . }}-removal
      key: force
      optional: true
- name: LONGHAUL_TRAINING_ADDRESS
  value: {{ include "longhaul.addressOf" (dict "root" . "service" "training") | quote }}
{{- include "longhaul.token" . }}
{{- include "longhaul.trust" . }}
{{- end -}}
