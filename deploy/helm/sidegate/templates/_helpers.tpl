{{- define "sidegate.image" -}}
{{- if eq .Values.image.tag "latest" }}{{ fail "image.tag: latest is no version, and two nodes may run two of them; write one, or nothing for the chart's own" }}{{ end -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Labels of one object: its own name, and whose it is. */ -}}
{{- define "sidegate.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}
