"""Base models: where a run or a server takes one from, and what pins it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from finetune_operator.api.parts import BUCKET, OBJECT, ORG_NAME, PATH, Digest, Revision, SecretRef
from finetune_operator.api.schema import ApiModel, Cel

_HUB_MODELS = (
    Cel(
        "!self.source.startsWith('hf://') || has(self.revision)",
        "an hf:// model must be pinned: set revision to the commit (40 hex digits) to use",
        ".revision",
    ),
    Cel(
        "self.source.startsWith('hf://') || !has(self.revision)",
        "only hf:// models have a revision; remove it (use fingerprint to pin any other model)",
        ".revision",
    ),
)


class BaseModelSource(ApiModel):
    """A base model, pinned: an adapter fits exactly the base it was trained on (R13)."""

    rules: ClassVar[tuple[Cel, ...]] = (
        *_HUB_MODELS,
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


class ServedBase(BaseModelSource):
    """The base model of a server, which may also be in a bucket."""

    rules = (
        *_HUB_MODELS,
        Cel(
            "!self.source.startsWith('pvc://') || !has(self.credentialsSecretRef)",
            "a model on a volume needs no credentials; remove credentialsSecretRef",
            ".credentialsSecretRef",
        ),
        Cel(
            "!self.source.matches('^(s3|gs)://') || has(self.fingerprint)",
            "a model in a bucket must be pinned: set fingerprint",
            ".fingerprint",
        ),
    )

    source: Annotated[
        str,
        Cel(
            f"self.matches('^(hf://{ORG_NAME}|pvc://{OBJECT}{PATH}*/?|(s3|gs)://{BUCKET}{PATH}+/?)$')",
            "must be hf://ORG/NAME (Hugging Face Hub), pvc://CLAIM/PATH (a folder on a volume), "
            "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX",
        ),
    ] = Field(
        description="Where the model is: hf://ORG/NAME on the Hugging Face Hub, pvc://CLAIM/PATH, a model "
        "folder on a PersistentVolumeClaim of this namespace, or the objects directly below "
        "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.",
        min_length=1,
        max_length=512,
    )
    fingerprint: Digest | None = Field(
        None,
        description="The expected fingerprint of the model (sha256:...), as status.resolved.baseFingerprint "
        "of a FineTuneJob shows it. A replica whose model differs never gets ready. Required for s3:// and "
        "gs://.",
    )
    credentials_secret_ref: SecretRef | None = Field(
        None,
        description="Secret for a model that not everybody may read. Its keys: `token` for hf://; "
        "`accessKeyId`, `secretAccessKey` and, for temporary ones, `sessionToken` for s3://; "
        "`serviceAccountJson` for gs://. Without it s3:// and gs:// use the identity of the pod.",
    )
    derived_from: Digest | None = Field(
        None,
        description="Fingerprint of the model that this base is a quantised form of. Adapters that were "
        "trained on that model are then served too; their scores were measured on the original.",
    )
