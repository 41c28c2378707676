{{- define "finetune.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "finetune.selector" -}}
app.kubernetes.io/name: finetune-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* managed-by stays Helm's: the operator finds its own children by managed-by=finetune-operator. */ -}}
{{- define "finetune.labels" -}}
{{ include "finetune.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* With the labels by which a Prometheus selects what it reads. */ -}}
{{- define "finetune.monitoring.labels" -}}
{{ merge (deepCopy .Values.monitoring.labels) (include "finetune.labels" . | fromYaml) | toYaml }}
{{- end -}}

{{- define "finetune.image" -}}
{{- $value := index .Values.images .image -}}
{{- required (printf "images.%s is empty: give the full reference of the image that you built from %s and pushed" .image .folder) $value -}}
{{- end -}}

{{- /* settings.json of docs/contracts.md, "Settings of the operator". */ -}}
{{- define "finetune.settings" -}}
{{- $trainer := include "finetune.image" (dict "Values" .Values "image" "trainer" "folder" "trainer_image/") -}}
{{- $serving := include "finetune.image" (dict "Values" .Values "image" "serving" "folder" "serving_image/") -}}
{{- $settings := dict "images" (dict "trainer" $trainer "serving" $serving) "operatorNamespace" .Release.Namespace -}}
{{- range $key := list "imagePullPolicy" "runAsUser" "gpuTypes" "cpuStages" "allowedServiceAccounts" "allowedPriorityClasses" "hubEndpoint" "s3" "env" "engineArgs" "engineProfiles" "servingNetwork" "engineStartSeconds" "imagePullDeadlineSeconds" "unschedulableDeadlineSeconds" "stuckDeadlineSeconds" "hangDeadlineSeconds" "ttlSecondsAfterFinished" "progressSeconds" -}}
{{- if hasKey $.Values $key -}}
{{- $_ := set $settings $key (index $.Values $key) -}}
{{- end -}}
{{- end -}}
{{- $settings | toPrettyJson -}}
{{- end -}}
