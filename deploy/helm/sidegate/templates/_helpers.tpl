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

{{- /* Injected pods lead to the gate's port 8443 and are asked on 9901: a gate elsewhere would fail its probes for ever. What comes
      from the environment is not seen here. */ -}}
{{- define "sidegate.fits" -}}
{{- $address := .said }}
{{- if kindIs "map" .said }}{{ $address = .said.address }}{{ end }}
{{- $address = $address | default "" | toString }}
{{- if not (or (contains "${" $address) (hasSuffix (printf ":%s" .port) $address)) }}
{{- fail (printf "gates[%d].config.%s: injected pods have it on port %s; write `%s: 0.0.0.0:%s`" (int .index) .field .port .field .port) }}
{{- end }}
{{- end }}
