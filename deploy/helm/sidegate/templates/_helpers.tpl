{{- define "sidegate.image" -}}
{{- if eq .Values.image.tag "latest" }}{{ fail "image.tag: latest is no version, and two nodes may run two of them; write one, or nothing for the chart's own" }}{{ end -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What Helm says of itself, on every object. */ -}}
{{- define "sidegate.made" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Labels of an object of this name. */ -}}
{{- define "sidegate.labels" -}}
app.kubernetes.io/name: {{ .name }}
{{ include "sidegate.made" .root }}
{{- end }}
