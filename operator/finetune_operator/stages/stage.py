"""What a stage is to the plan: when it runs, the pod it renders, the result it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, StageName
from finetune_operator.api.settings import Settings
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.outcome import Outcome
from finetune_operator.stages.pod import Parts

Summary: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage. `read` takes a successful outcome into the draft, and may end the run.

    `lacks` says what a successful summary must hold for `read`: a result without it decides nothing.
    """

    name: StageName
    title: str
    condition: str
    activity: str
    parts: Callable[[FineTuneJob, Settings, Attempt], Parts]
    read: Callable[[Draft, Outcome], None]
    lacks: Callable[[Summary], str | None] = lambda _: None


def evaluated(job: FineTuneJob) -> bool:
    """Whether the run has a hold-out; without one only EvalMissing in `accept` lets it go on (R4)."""
    evaluation = job.spec.evaluation
    return evaluation is not None and evaluation.dataset is not None and bool(evaluation.graders)
