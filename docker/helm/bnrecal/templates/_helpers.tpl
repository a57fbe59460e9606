{{- define "bnrecal.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "bnrecal.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bnrecal.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "bnrecal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "bnrecal.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "bnrecal.fullname" .) }}
{{- end }}

{{- define "bnrecal.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The pod of a server or a runner. Arguments: root, component, values, and for a server port. */}}
{{- define "bnrecal.pod" -}}
{{- $values := .values }}
{{- $settings := mergeOverwrite (dict "blobs" (required "blobs: the URL of the object storage is required" .root.Values.blobs)) .root.Values.settings $values.settings }}
{{- if eq .component "api" }}{{ $settings = mergeOverwrite (dict "max_concurrent_runs" 0) $settings }}{{ end }}
metadata:
  labels:
    {{- include "bnrecal.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  {{- with $values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "bnrecal.serviceAccount" .root }}
  automountServiceAccountToken: false
  # The variables of a service named bnrecal would be read as settings (BNRECAL_PORT=tcp://…).
  enableServiceLinks: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  # A run that is interrupted is queued again; uploads in progress are given shutdown_seconds.
  terminationGracePeriodSeconds: {{ add 20 (int (get $settings "shutdown_seconds" | default 10)) }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: {{ .component }}
      image: {{ include "bnrecal.image" .root | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      {{- if eq .component "runner" }}
      args: [python, -m, service, --runner]
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      env:
        - name: BNRECAL_LEDGER
          valueFrom:
            secretKeyRef:
              name: {{ .root.Values.secrets.ledger.name }}
              key: {{ .root.Values.secrets.ledger.key }}
        {{- if eq .component "api" }}
        - name: BNRECAL_TOKENS
          valueFrom:
            secretKeyRef:
              name: {{ .root.Values.secrets.tokens.name }}
              key: {{ .root.Values.secrets.tokens.key }}
        {{- end }}
        {{- range $name, $value := $settings }}
        - name: BNRECAL_{{ upper $name }}
          value: {{ if and (kindIs "float64" $value) (eq (floor $value) $value) }}{{ int64 $value | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
        {{- end }}
        {{- range $name, $value := .root.Values.environment }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
      {{- with .root.Values.secrets.environment }}
      envFrom:
        {{- range . }}
        - secretRef:
            name: {{ . }}
        {{- end }}
      {{- end }}
      {{- if eq .component "api" }}
      ports:
        - name: http
          containerPort: 8000
      startupProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 2
        failureThreshold: 30
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 10
        failureThreshold: 2
      lifecycle:
        preStop:
          exec:
            command: [sleep, "5"] # until endpoints are updated
      {{- end }}
      resources: {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: data
      emptyDir:
        sizeLimit: {{ $values.scratch }}
    - name: tmp
      emptyDir:
        sizeLimit: 256Mi
  {{- if eq .component "api" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "bnrecal.selector" .root | nindent 10 }}
          app.kubernetes.io/component: api
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
