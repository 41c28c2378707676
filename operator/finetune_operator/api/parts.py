"""The parts that several specs share: pinned models, Secrets, quantities, placement."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.schema import ApiModel, Cel

Number: TypeAlias = Annotated[str, Field(max_length=32)]
"""A number that is no count, as a status holds it (API conventions)."""

ORG_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
OBJECT = "[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
# A part starts with a letter, a digit or an underscore: no "..", no hidden files, no empty parts.
PATH = "(/[A-Za-z0-9_][A-Za-z0-9._=+@-]*)"
BUCKET = "[a-z0-9][a-z0-9._-]*"
HOST = "[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?"

OBJECT_NAME = Cel(
    f"self.matches('^{OBJECT}$')", "must be the name of an object: lower-case letters, digits, - and ."
)
QUANTITY = Cel(
    "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
    "must be a positive Kubernetes quantity, for example 500m, 8 or 64Gi",
)
REVISION = Cel(
    "self.matches('^[0-9a-f]{40}$')",
    "must be the full commit of the Hub repository: 40 hex digits (a branch or tag can move)",
)
DIGEST = Cel("self.matches('^sha256:[0-9a-f]{64}$')", "must be sha256: followed by 64 hex digits")
PVC_FOLDER = Cel(
    f"self.matches('^pvc://{OBJECT}{PATH}+/?$')",
    "must be pvc://CLAIM/PATH, a folder on a PersistentVolumeClaim of this namespace",
)
FRACTION = "^[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$"
AMOUNT = Cel(
    "self.matches('^[0-9]+([.][0-9]+)?$') && double(self) > 0.0",
    'must be a positive decimal number as a string, for example "50" or "0.75"',
)
PRICE = Cel(
    "self.matches('^[0-9]+([.][0-9]+)?$')",
    'must be a decimal number as a string, for example "0.15", or "0"',
)
CURRENCY = Cel("self.matches('^[A-Z]{3}$')", "must be the three capital letters of a currency, such as USD")

ObjectName: TypeAlias = Annotated[str, Field(min_length=1, max_length=253), OBJECT_NAME]
Quantity: TypeAlias = Annotated[str, Field(min_length=1, max_length=32), QUANTITY]
Digest: TypeAlias = Annotated[str, Field(max_length=71), DIGEST]
Revision: TypeAlias = Annotated[str, Field(max_length=64), REVISION]
Amount: TypeAlias = Annotated[str, Field(min_length=1, max_length=20), AMOUNT]
Price: TypeAlias = Annotated[str, Field(min_length=1, max_length=20), PRICE]
Currency: TypeAlias = Annotated[str, Field(min_length=3, max_length=3), CURRENCY]

NODE_SELECTOR = "Labels that a node must have to run the pods, as in a pod's nodeSelector."
TOLERATIONS = (
    "Taints of nodes that the pods accept, as in a pod's tolerations; those of the gpuType are added."
)
GPU_TYPE = "The GPU to use: a name from the table that the administrator configured."
SHARED_MEMORY = (
    "Size of /dev/shm, which workers use to exchange tensors, for example 8Gi. It counts as memory of the "
    "pod. Default: that of the gpuType for each GPU; 1Gi without GPUs."
)


class SecretRef(ApiModel):
    """A Secret of the same namespace."""

    name: ObjectName = Field(description="Name of the Secret in this namespace.")


class Toleration(ApiModel):
    """A taint that the pods accept."""

    key: str | None = Field(None, description="Key of the taint; left out matches every key.", max_length=316)
    operator: Literal["Exists", "Equal"] | None = Field(
        None, description="Equal compares the value (the default of Kubernetes); Exists does not."
    )
    value: str | None = Field(None, description="Value of the taint, for Equal.", max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint; left out matches every effect."
    )
    toleration_seconds: int | None = Field(
        None, description="How long a NoExecute taint is tolerated.", ge=0, le=2**31 - 1
    )


_RESERVED = ("finetune.dev/", "app.kubernetes.io/managed-by", "batch.kubernetes.io/", "kueue.x-k8s.io/")
_RESERVED_KEY = " || ".join(f"key.startsWith('{prefix}')" for prefix in _RESERVED)
_KEY = "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_VALID_KEYS = Cel(
    f"self.all(key, key.matches('{_KEY}'))",
    "keys must be NAME or PREFIX/NAME: a prefix in lower case, a name of at most 63 letters, digits, -, _ "
    "and .",
)
_VALID_LABELS = Cel(
    "self.all(key, self[key].matches('^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$'))",
    "values of labels must be letters, digits, -, _ and ., beginning and ending with a letter or digit",
)
_NOT_RESERVED = Cel(
    f"self.all(key, !({_RESERVED_KEY}))",
    f"keys that begin with {', '.join(_RESERVED)} are set by controllers; remove them",
)

LabelValue: TypeAlias = Annotated[str, Field(max_length=63)]
AnnotationValue: TypeAlias = Annotated[str, Field(max_length=1024)]
Labels: TypeAlias = Annotated[
    dict[str, LabelValue], Field(max_length=32), _VALID_KEYS, _VALID_LABELS, _NOT_RESERVED
]
Annotations: TypeAlias = Annotated[
    dict[str, AnnotationValue], Field(max_length=32), _VALID_KEYS, _NOT_RESERVED
]
NodeSelector: TypeAlias = Annotated[dict[str, LabelValue], Field(max_length=32)]
Tolerations: TypeAlias = Annotated[tuple[Toleration, ...], Field(max_length=32)]


class PodTemplate(ApiModel):
    """What the pods carry beyond what the operator gives them."""

    labels: Labels = Field(
        default_factory=dict,
        description="Labels of the pods, for policies and reports. Pods of grade-base and grade-tuned, which "
        "run code of others, carry neither these labels nor the annotations.",
    )
    annotations: Annotations = Field(
        default_factory=dict,
        description='Annotations of the pods, for example sidecar.istio.io/inject: "false".',
    )
    service_account_name: ObjectName | None = Field(
        None,
        description="Service account of the pods, for a cloud's workload identity; one of those that the "
        "administrator allows. Its Kubernetes token is not mounted. Default: default.",
    )
    image_pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=8)] = Field(
        (), description="Secrets with which the nodes pull the images of the pods."
    )


class Scheduling(ApiModel):
    """Which pods come first."""

    priority_class_name: ObjectName | None = Field(
        None,
        description="PriorityClass of the pods; one of those that the administrator allows. Default: that of "
        "the gpuType, else that of the cluster.",
    )
