"""The parts that several specs share: pinned models, Secrets, quantities, placement."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.schema import ApiModel, Cel

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
CURRENCY = Cel("self.matches('^[A-Z]{3}$')", "must be the three capital letters of a currency, such as USD")

ObjectName: TypeAlias = Annotated[str, Field(min_length=1, max_length=253), OBJECT_NAME]
Quantity: TypeAlias = Annotated[str, Field(min_length=1, max_length=32), QUANTITY]
Digest: TypeAlias = Annotated[str, Field(max_length=71), DIGEST]
Revision: TypeAlias = Annotated[str, Field(max_length=64), REVISION]
Amount: TypeAlias = Annotated[str, Field(min_length=1, max_length=20), AMOUNT]
Currency: TypeAlias = Annotated[str, Field(min_length=3, max_length=3), CURRENCY]

NODE_SELECTOR = "Labels that a node must have to run the pods, as in a pod's nodeSelector."
TOLERATIONS = "Taints of nodes that the pods accept, as in a pod's tolerations."
GPU_TYPE = "The GPU to use: a name from the table that the administrator configured."
SHARED_MEMORY = "Size of /dev/shm, which workers use to exchange tensors, for example 8Gi."


class SecretRef(ApiModel):
    """A Secret of the same namespace."""

    name: ObjectName = Field(description="Name of the Secret in this namespace.")


class BaseModelSource(ApiModel):
    """A base model, pinned: an adapter fits exactly the base it was trained on (R13)."""

    rules = (
        Cel(
            "!self.source.startsWith('hf://') || has(self.revision)",
            "an hf:// model must be pinned: set revision to the commit (40 hex digits) to use",
            ".revision",
        ),
        Cel(
            "self.source.startsWith('hf://') || !has(self.revision)",
            "only hf:// models have a revision; remove it (use fingerprint to pin a pvc:// model)",
            ".revision",
        ),
        Cel(
            "self.source.startsWith('hf://') || !has(self.credentialsSecretRef)",
            "only hf:// models are fetched with credentials; remove credentialsSecretRef",
            ".credentialsSecretRef",
        ),
    )

    source: Annotated[
        str,
        Cel(
            f"self.matches('^(hf://{ORG_NAME}|pvc://{OBJECT}{PATH}*/?)$')",
            "must be hf://ORG/NAME (Hugging Face Hub) or pvc://CLAIM/PATH (a folder on a volume)",
        ),
    ] = Field(
        description="Where the model is: hf://ORG/NAME on the Hugging Face Hub, or pvc://CLAIM/PATH, "
        "a model folder on a PersistentVolumeClaim of this namespace.",
        min_length=1,
        max_length=512,
    )
    revision: Revision | None = Field(
        None, description="The commit of an hf:// model (40 hex digits). Required for hf://."
    )
    fingerprint: Digest | None = Field(
        None,
        description="The expected fingerprint of the model (sha256:...), as status.resolved.baseFingerprint "
        "shows it. The run stops if the model differs.",
    )
    credentials_secret_ref: SecretRef | None = Field(
        None, description="Secret whose key `token` holds a Hub access token, for gated or private models."
    )


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


LabelValue: TypeAlias = Annotated[str, Field(max_length=63)]
NodeSelector: TypeAlias = Annotated[dict[str, LabelValue], Field(max_length=32)]
Tolerations: TypeAlias = Annotated[tuple[Toleration, ...], Field(max_length=32)]
