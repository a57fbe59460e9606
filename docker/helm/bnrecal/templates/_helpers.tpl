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

{{- define "bnrecal.rayImage" -}}
{{- $image := .Values.ray.image }}
{{- $repository := $image.repository | default .Values.image.repository }}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}{{ else }}{{ $repository }}:{{ $image.tag | default (printf "%s-ray" (.Values.image.tag | default .Chart.AppVersion)) }}{{ end }}
{{- end }}

{{- define "bnrecal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "bnrecal.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "bnrecal.rayEnvironment" -}}
- {name: RAY_AUTH_MODE, value: token}
- {name: RAY_AUTH_TOKEN_PATH, value: /etc/bnrecal/ray/token}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- end }}

{{- define "bnrecal.rayVolumes" -}}
- name: token
  secret:
    secretName: {{ .Values.ray.token.name }}
    items:
      - {key: {{ .Values.ray.token.key }}, path: token}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: 256Mi}
{{- end }}

{{/* A node of the Ray cluster, with the ports of docs/sharded-runs.md. Arguments: root, component, values, scratch. */}}
{{- define "bnrecal.rayPod" -}}
metadata:
  labels:
    {{- include "bnrecal.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  serviceAccountName: {{ include "bnrecal.serviceAccount" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "bnrecal.podSecurity" . | nindent 4 }}
  containers:
    - name: {{ .component }}
      image: {{ include "bnrecal.rayImage" .root | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      # Not the login shell of KubeRay, whose PATH lacks that of the image.
      command: [sh, -c]
      args: ['eval "exec $KUBERAY_GEN_RAY_START_CMD"']
      securityContext: {{- include "bnrecal.containerSecurity" . | nindent 8 }}
      env:
        {{- include "bnrecal.rayEnvironment" . | nindent 8 }}
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
      resources: {{- toYaml .values.resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        - {name: token, mountPath: /etc/bnrecal/ray, readOnly: true}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: {{ .scratch }}
    {{- include "bnrecal.rayVolumes" .root | nindent 4 }}
  {{- with .values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* The pod of a server or a runner. Arguments: root, component, values, and for a server port. */}}
{{- define "bnrecal.pod" -}}
{{- $values := .values }}
{{- $settings := mergeOverwrite (dict "blobs" (required "blobs: the URL of the object storage is required" .root.Values.blobs)) .root.Values.settings $values.settings }}
{{- $ray := and .root.Values.ray.enabled (eq .component "runner") }}
{{- if eq .component "api" }}{{ $settings = mergeOverwrite (dict "max_concurrent_runs" 0) $settings }}{{ end }}
{{- if $ray }}{{ $settings = mergeOverwrite (dict "runner" "ray" "shards" .root.Values.ray.shards) $settings }}{{ end }}
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
  securityContext: {{- include "bnrecal.podSecurity" . | nindent 4 }}
  containers:
    - name: {{ .component }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      {{- if $ray }}
      image: {{ include "bnrecal.rayImage" .root | quote }}
      # A node without CPUs, on which no shard is placed: drivers connect to a node of their machine.
      args:
        - sh
        - -c
        - >-
          ray start --address={{ include "bnrecal.fullname" .root }}-ray-head-svc:6379
          --num-cpus=0 --memory=100000000 --object-store-memory=80000000
          --node-manager-port=20001 --object-manager-port=20002
          --min-worker-port=20100 --max-worker-port=20199
          && exec python -m service --runner
      {{- else }}
      image: {{ include "bnrecal.image" .root | quote }}
      {{- if eq .component "runner" }}
      args: [python, -m, service, --runner]
      {{- end }}
      {{- end }}
      securityContext: {{- include "bnrecal.containerSecurity" . | nindent 8 }}
      env:
        {{- if $ray }}
        {{- include "bnrecal.rayEnvironment" . | nindent 8 }}
        {{- end }}
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
        {{- if $ray }}
        - {name: shm, mountPath: /dev/shm}
        - {name: token, mountPath: /etc/bnrecal/ray, readOnly: true}
        {{- end }}
  volumes:
    - name: data
      emptyDir:
        sizeLimit: {{ $values.scratch }}
    - name: tmp
      emptyDir:
        sizeLimit: {{ if $ray }}2Gi{{ else }}256Mi{{ end }}
    {{- if $ray }}
    {{- include "bnrecal.rayVolumes" .root | nindent 4 }}
    {{- end }}
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
