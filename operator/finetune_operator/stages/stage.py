"""What a stage is to the plan: the pod it renders, the result it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, StageName
from finetune_operator.contracts.settings import Settings
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.pod import PodParts
from finetune_operator.stages.decision import Decision

Summary: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage. `read` says what a successful outcome means for the run, and may end it.

    `lacks` says what a successful summary must hold for `read`: a result without it decides nothing.
    """

    name: StageName
    title: str
    condition: str
    activity: str
    parts: Callable[[FineTuneJob, Settings, Attempt], PodParts]
    read: Callable[[FineTuneJob, AttemptOutcome], Decision]
    lacks: Callable[[Summary], str | None] = lambda _: None


def evaluated(job: FineTuneJob) -> bool:
    """Whether the run has a hold-out; without one only EvalMissing in `accept` lets it go on."""
    evaluation = job.spec.evaluation
    return evaluation is not None and evaluation.dataset is not None and bool(evaluation.graders)
