"""Where rows come from, and how strictly the training data is checked."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.parts import BUCKET, HOST, OBJECT, ORG_NAME, PATH, Revision, SecretRef
from finetune_operator.api.schema import ApiModel, Cel

Severity: TypeAlias = Literal["Error", "Warning", "Info", "Ignore"]

_RULE_NAMES = Cel(
    "self.all(name, name.matches('^[a-z_0-9]+$'))",
    "must map names of rules, such as near_duplicate, to a severity: lower-case letters, digits and _",
)


class DatasetSource(ApiModel):
    """A file or folder of rows: JSON Lines, JSON, CSV, Parquet or Arrow, possibly compressed."""

    rules = (
        Cel(
            "!self.source.startsWith('hf://') || has(self.revision)",
            "an hf:// dataset must be pinned: set revision to the commit (40 hex digits) to use",
            ".revision",
        ),
        Cel(
            "self.source.startsWith('hf://') || !has(self.revision)",
            "only hf:// datasets have a revision; remove it",
            ".revision",
        ),
        Cel(
            "!has(self.credentialsSecretRef) || "
            "!(self.source.startsWith('pvc://') || self.source.startsWith('configmap://'))",
            "a pvc:// or configmap:// dataset is not fetched; remove credentialsSecretRef",
            ".credentialsSecretRef",
        ),
    )

    source: Annotated[
        str,
        Cel(
            f"self.matches('^(hf://datasets/{ORG_NAME}{PATH}+|pvc://{OBJECT}{PATH}+|"
            f"configmap://{OBJECT}/[A-Za-z0-9_][A-Za-z0-9._-]*|(s3|gs)://{BUCKET}{PATH}+|"
            f"https://{HOST}{PATH}+)$')",
            "must be hf://datasets/ORG/NAME/FILE, s3://BUCKET/KEY, gs://BUCKET/KEY, https://HOST/PATH "
            "(without ? and user names: a spec is no place for secrets), pvc://CLAIM/FILE or "
            "configmap://NAME/KEY",
        ),
    ] = Field(
        description="The file of rows (JSON Lines, JSON, CSV, Parquet or Arrow, plain or compressed): "
        "hf://datasets/ORG/NAME/FILE on the Hugging Face Hub, s3://BUCKET/KEY, gs://BUCKET/KEY, "
        "https://HOST/PATH, pvc://CLAIM/FILE on a volume, or configmap://NAME/KEY for small data. All but "
        "https:// and configmap:// may name a folder of such files instead, as save_to_disk writes it or the "
        "Hub lays it out: of splits that names tell, `dataset` is the training one, `evaluation.dataset` the "
        "held-out one.",
        min_length=1,
        max_length=512,
    )
    revision: Revision | None = Field(
        None, description="The commit of an hf:// dataset (40 hex digits). Required for hf://."
    )
    credentials_secret_ref: SecretRef | None = Field(
        None,
        description="Secret for a file that not everybody may read. Its keys: `token` for hf:// and https:// "
        "(a bearer token); `accessKeyId`, `secretAccessKey` and, for temporary ones, `sessionToken` for "
        "s3://; `serviceAccountJson` or `token` for gs://.",
    )


class TrainingDataset(DatasetSource):
    """The training data, and how strictly it and the hold-out are checked."""

    severities: Annotated[dict[str, Severity], Field(max_length=64), _RULE_NAMES] | None = Field(
        None,
        alias="rules",
        description="Severities of data rules other than their own, by the rule's name, for the training "
        "data and the hold-out, for example near_duplicate: Ignore. Each is Error (stops the run), Warning, "
        "Info or Ignore; what is overridden is shown in status.resolved.rules and in the report.",
    )
