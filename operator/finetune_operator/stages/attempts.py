"""Attempts: recorded first, created in the next reconcile, and never undone once their outcome is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from finetune_operator.api.conditions import clip
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, StageName
from finetune_operator.core.times import format_time
from finetune_operator.observe.outcome import RETRIED, UNREAD, AttemptOutcome
from finetune_operator.render.names import child_name
from finetune_operator.stages.draft import Draft, word

RUNS = 3
"""How often a stage is run when nothing is wrong with its input."""
REEMISSIONS = 3
"""How often a lost result is looked for; these attempts take no GPU and do not count as runs."""


def of_stage(attempts: Iterable[Attempt], stage: StageName) -> list[Attempt]:
    """The attempts of a stage in their order."""
    return sorted((a for a in attempts if a.stage == stage), key=lambda a: a.number)


def reemits(attempts: Sequence[Attempt], attempt: Attempt) -> bool:
    """Whether an attempt only reads what an earlier one of its stage stored."""
    return dict(zip((a.number for a in attempts), _modes(attempts), strict=False)).get(attempt.number, False)


def goes_on(attempts: Sequence[Attempt]) -> bool:
    """Whether another attempt follows the last one, which failed."""
    modes = _modes(attempts)
    last = attempts[-1]
    nothing_stored = modes[-1] and last.reason == "NotStored"
    if last.reason not in RETRIED and not nothing_stored:
        return False
    next_reemits = _modes([*attempts, last])[-1]
    return next_reemits or modes.count(False) < RUNS


def next_attempt(job: FineTuneJob, stage: StageName, attempts: Sequence[Attempt]) -> Attempt:
    """The attempt to record next; its Job does not exist yet."""
    number = attempts[-1].number + 1 if attempts else 1
    return Attempt(stage=stage, number=number, job=child_name(job, stage, number), state="Recorded")


def record_start(draft: Draft, attempt: Attempt) -> None:
    """Record an attempt."""
    draft.record(attempt.model_copy(update={"start_time": format_time(draft.now)}))


def record_outcome(draft: Draft, attempt: Attempt, outcome: AttemptOutcome) -> None:
    """Record how an attempt ended."""
    update = {
        "state": "Succeeded" if outcome.succeeded else "Failed",
        "reason": word(outcome.reason),
        "message": clip(outcome.message) or None,
        "finish_time": format_time(draft.now),
    }
    draft.record(attempt.model_copy(update=update))


def _modes(attempts: Sequence[Attempt]) -> list[bool]:
    """For every attempt whether it re-emits: it follows one whose result nobody could read."""
    modes: list[bool] = []
    for before in (None, *attempts[:-1]):
        lost = before is not None and before.state == "Failed" and before.reason in UNREAD
        modes.append(lost and modes.count(True) < REEMISSIONS)
    return modes[: len(attempts)]
