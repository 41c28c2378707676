"""Which keys of which Secrets a stage is given.

prepare gets those of its sources, scorers that of the judge, publish those of where it sends the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_operator.api.datasets import DatasetSource
from finetune_operator.api.finetunejob import FineTuneJob

CREDENTIALS = "/etc/finetune/credentials"
_TOKEN = ("token",)
# Keys without which a pod waits, so that its message can name them; gs takes either of two.
_REQUIRED = {"hf": _TOKEN, "https": _TOKEN, "s3": ("accessKeyId", "secretAccessKey")}
_OPTIONAL = {"s3": ("sessionToken",), "gs": ("serviceAccountJson", "token")}


@dataclass(frozen=True)
class Credential:
    """The keys of one Secret for one purpose.

    That is `base-model`, `dataset`, `judge`, `mlflow` or `open-telemetry`.
    """

    purpose: str
    secret: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


def credentials(job: FineTuneJob) -> Iterator[Credential]:
    """What prepare is given; one Secret serves all data sets."""
    if (reference := job.spec.base_model.credentials_secret_ref) is not None:
        yield Credential("base-model", reference.name, _TOKEN)
    given = [dataset for dataset in job.spec.datasets.values() if dataset.credentials_secret_ref]
    if given and (reference := given[0].credentials_secret_ref) is not None:
        required, optional = _union(given, _REQUIRED), _union(given, _OPTIONAL)
        left = tuple(key for key in optional if key not in required)
        yield Credential("dataset", reference.name, required, left)


def judge_credential(job: FineTuneJob) -> Credential | None:
    """What a scorer is given to ask the judge; None where the judge wants no key, or there is none."""
    judge = job.spec.evaluation.judge if job.spec.evaluation is not None else None
    reference = judge.credentials_secret_ref if judge is not None else None
    return None if reference is None else Credential("judge", reference.name, _TOKEN)


def export_credentials(job: FineTuneJob) -> Iterator[Credential]:
    """What publish is given to send the evaluation to where the spec says."""
    export = job.spec.evaluation.export if job.spec.evaluation is not None else None
    if export is None:
        return
    for purpose, target in (("mlflow", export.mlflow), ("open-telemetry", export.open_telemetry)):
        if target is not None and (reference := target.credentials_secret_ref) is not None:
            yield Credential(purpose, reference.name, _TOKEN)


def _union(datasets: list[DatasetSource], keys: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    found = [key for dataset in datasets for key in keys.get(dataset.source.partition("://")[0], ())]
    return tuple(dict.fromkeys(found))
