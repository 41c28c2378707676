"""Where the base model and rows come from, as job.json says it."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from finetune_trainer.contracts.document import Digest, Document

Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
ModelSource = Annotated[str, StringConstraints(pattern=r"^(hf|pvc)://.+")]
DataSource = Annotated[str, StringConstraints(pattern=r"^(hf|s3|gs|https|pvc|configmap)://.+")]


class BaseModelSpec(Document):
    """Which model is tuned; an hf source is pinned by revision, a pvc source may be by fingerprint."""

    source: ModelSource
    revision: Revision | None = None
    fingerprint: Digest | None = None

    @model_validator(mode="after")
    def _hub_sources_are_pinned(self) -> "BaseModelSpec":
        _require_pin(self.source, self.revision)
        return self


class DatasetSpec(Document):
    """Where rows come from."""

    source: DataSource
    revision: Revision | None = None

    @model_validator(mode="after")
    def _hub_sources_are_pinned(self) -> "DatasetSpec":
        _require_pin(self.source, self.revision)
        return self


class TrainingDatasetSpec(DatasetSpec):
    """The training data; `rules` maps names of data rules to severities other than their own."""

    severities: dict[str, Literal["Error", "Warning", "Info", "Ignore"]] | None = Field(None, alias="rules")


def _require_pin(source: str, revision: str | None) -> None:
    if source.startswith("hf://") and revision is None:
        raise ValueError(
            f"{source} needs `revision`, the 40 hex digits of a commit, so that reruns use the same"
        )
    if not source.startswith("hf://") and revision is not None:
        raise ValueError(f"{source} takes no `revision`; only hf:// sources have revisions")
