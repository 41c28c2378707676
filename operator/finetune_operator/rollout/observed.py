"""What one reconcile of an AdapterDeployment sees."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core.actions import Refusal


@dataclass(frozen=True)
class Observed:
    """An AdapterDeployment with the run and the server it names (None while absent).

    Where the adapter is named by its digest, `job` is a run of the namespace that published this digest.
    `unreadable` says of one of the two that it exists and cannot be read.
    """

    deployment: AdapterDeployment
    job: FineTuneJob | None
    server: ModelServer | None
    unreadable: str | None = None
    refusal: Refusal | None = None
