"""What a stage is, what a plan decides about a run, and the one function that folds it into the status."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypeVar

from finetune_operator.api.conditions import Fact, clip, with_facts
from finetune_operator.api.evaluation.scores import Scores
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import (
    Artifact,
    Attempt,
    Candidate,
    Cost,
    FineTuneJobStatus,
    MemoryPlan,
    Pinned,
    Progress,
    Resolved,
    StageName,
    Waiting,
)
from finetune_operator.api.schema import ApiModel
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Action, Emit
from finetune_operator.core.times import format_time
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.pod import PodParts

MILESTONES = (
    "Validated", "Admitted", "BaselineScored", "Trained", "Evaluated", "Published", "Promoted", "Succeeded",
)  # fmt: skip
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_]{0,62}[A-Za-z0-9])?")
Section = TypeVar("Section", bound=ApiModel)
Summary: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a run ends, for good; `stalled` when a person has to mend something."""

    succeeded: bool
    reason: str
    message: str
    stalled: bool = False


@dataclass(frozen=True)
class Decision:
    """What one step of a run decides. What is left out stays as it is, but `waiting` must be said each time.

    `attempts` are new or changed ones; of `resolved`, `plan`, `cost` and `scores` what is known replaces what
    was, `pinned` is kept; `title` is the stage as kubectl shows it; `scored` when the scorer has said that it
    asks no candidate; `idle` when there are no pods, of which progress could be shown; `again` is in seconds.
    """

    actions: tuple[Action, ...] = ()
    facts: tuple[Fact, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    title: str | None = None
    waiting: Waiting | None = None
    progress: Progress | None = None
    pinned: Pinned | None = None
    resolved: Resolved | None = None
    plan: MemoryPlan | None = None
    cost: Cost | None = None
    scores: Scores | None = None
    artifact: Artifact | None = None
    candidate: Candidate | None = None
    scored: bool = False
    ending: Ending | None = None
    idle: bool = False
    again: float | None = None

    def adding(self, *facts: Fact, actions: Sequence[Action] = ()) -> Decision:
        """The decision with more facts and actions."""
        return replace(self, facts=(*self.facts, *facts), actions=(*self.actions, *actions))

    def ending_in(self, ending: Ending) -> Decision:
        """The decision that also ends the run, with an event."""
        kind: Literal["Normal", "Warning"] = "Normal" if ending.succeeded else "Warning"
        told = event(kind, ending.reason, ending.message)
        return replace(self, ending=ending, actions=(*self.actions, told))


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


def runs_code(job: FineTuneJob) -> bool:
    """Whether the answers of the run's models are programs that have to run to be graded."""
    return job.spec.evaluation is not None and job.spec.evaluation.runs_code


def event(kind: Literal["Normal", "Warning"], reason: str, message: str) -> Emit:
    """An event on the run."""
    return Emit(kind, word(reason), clip(message))


def word(reason: str) -> str:
    """A reason in the form that Kubernetes takes; any other that a program made up is Unknown."""
    return reason if _REASON.fullmatch(reason) else "Unknown"


def begun(status: FineTuneJobStatus, generation: int, now: datetime) -> FineTuneJobStatus:
    """The status with every condition, from the first visit on."""
    known = {condition.type for condition in status.conditions}
    pending = [Fact(kind, None, "Pending", "Not reached yet.") for kind in MILESTONES]
    pending += [
        Fact("Reconciling", True, "Pending", "The run starts."),
        Fact("Stalled", False, "Pending", "Nothing is wrong."),
    ]
    missing = [fact for fact in pending if fact.type not in known]
    return status.model_copy(
        update={
            "observed_generation": generation,
            "start_time": status.start_time or format_time(now),
            "stage": status.stage or "Pending",
            "conditions": with_facts(status.conditions, missing, generation, now),
        }
    )


def ended(status: FineTuneJobStatus) -> bool:
    """Whether the outcome of the run is recorded; it is final."""
    found = status.condition("Succeeded")
    return found is not None and found.status != "Unknown"


def fold(status: FineTuneJobStatus, decision: Decision, generation: int, now: datetime) -> FineTuneJobStatus:
    """The status after a decision.

    A candidate is asked for while pods score it: when they say that they have, and whatever ends them, the
    server may forget it. A scorer that is silent still needs it.
    """
    closes = decision.idle or any(attempt.finish_time for attempt in decision.attempts)
    attempts = recorded(status.attempts, decision.attempts)
    works = any(a.stage == "evaluate" and a.state in ("Recorded", "Running") for a in attempts)
    scores = works and not closes and not decision.scored
    update = {
        "conditions": with_facts(status.conditions, map(_worded, decision.facts), generation, now),
        "attempts": attempts,
        "stage": decision.title or status.stage,
        "waiting": decision.waiting,
        "progress": None if closes else decision.progress or status.progress,
        "pinned": status.pinned or decision.pinned,
        "resolved": merged(status.resolved, decision.resolved),
        "plan": merged(status.plan, decision.plan),
        "cost": merged(status.cost, decision.cost),
        "scores": merged(status.scores, decision.scores),
        "artifact": decision.artifact or status.artifact,
        "candidate": (decision.candidate or status.candidate) if scores else None,
    }
    after = status.model_copy(update=update)
    return after if decision.ending is None else _ended(after, decision.ending, generation, now)


def merged(before: Section | None, new: Section | None) -> Section | None:
    """A section with what is newly known over what was known."""
    if before is None or new is None:
        return new if before is None else before
    known = {
        name: value for name in type(new).model_fields if (value := getattr(new, name)) not in (None, (), {})
    }
    return before.model_copy(update=known)


def _worded(fact: Fact) -> Fact:
    return replace(fact, reason=word(fact.reason))


def recorded(attempts: Sequence[Attempt], changes: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The attempts with some added or replaced: stage and number say which is which."""
    by_key = {(attempt.stage, attempt.number): attempt for attempt in (*attempts, *changes)}
    return tuple(by_key.values())


def _ended(status: FineTuneJobStatus, end: Ending, generation: int, now: datetime) -> FineTuneJobStatus:
    """What the run never came to is False now, no longer Unknown."""
    open_ones = [c.type for c in status.conditions if c.type in MILESTONES and c.status == "Unknown"]
    said = (end.reason, end.message) if end.stalled else ("Ended", "The run has ended.")
    facts = [
        *(Fact(kind, False, "NotReached", "The run ended before this.") for kind in open_ones),
        Fact("Succeeded", end.succeeded, end.reason, end.message),
        Fact("Reconciling", False, "Ended", "The run has ended."),
        Fact("Stalled", end.stalled, *said),
    ]
    return status.model_copy(
        update={
            "conditions": with_facts(status.conditions, map(_worded, facts), generation, now),
            "stage": "Succeeded" if end.succeeded else "Failed",
            "progress": Progress(percent=100) if end.succeeded else None,
            "waiting": None,
            "completion_time": format_time(now),
        }
    )
