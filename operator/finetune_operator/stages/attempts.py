"""Attempts at a stage: recorded first, created in the next reconcile, and final once their outcome is known.

How many follow: failures of the work count, and a stage has three of them. Disruptions (the pods were
interrupted, preempted, lost or deleted) do not end a run that moves: they count only in a row, while no
attempt gets further than the ones before it. Between attempts the wait doubles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from finetune_operator.api.conditions import clip
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, StageName
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import integer
from finetune_operator.core.times import format_time, moment_of
from finetune_operator.observe.outcome import DISRUPTIONS, FAULTS, RETRIED, UNREAD, AttemptOutcome, disruption
from finetune_operator.render.names import child_name
from finetune_operator.stages.decision import word

FAILURES = 3
"""How often the work of a stage may fail."""
STANDSTILLS = 10
"""How often in a row a stage may be disrupted without a newer checkpoint."""
REEMISSIONS = 3
"""How often in a row a lost result is looked for; these attempts take no GPU."""
FIRST_WAIT_SECONDS = 10
LONGEST_WAIT_SECONDS = 600
LISTED = 64
"""Attempts of a stage that are listed one by one."""
AVOIDED = 8


@dataclass(frozen=True)
class Retry:
    """Another attempt follows, not before `at`; `reemits` if it only looks for what the last one stored."""

    at: datetime
    reemits: bool


def of_stage(attempts: Iterable[Attempt], stage: StageName) -> list[Attempt]:
    """The attempts of a stage in their order."""
    return sorted((a for a in attempts if a.stage == stage), key=lambda a: a.number)


def retry(attempts: Sequence[Attempt]) -> Retry | None:
    """What follows the last attempt of a stage, which failed; None when the stage is given up."""
    last = attempts[-1]
    if last.failed_grader is not None:
        return Retry(_ended_at(last), reemits=False)  # without that grader, so no attempt fails by it again
    if last.reason in UNREAD and _reemissions(attempts) < REEMISSIONS:
        return Retry(_ended_at(last), reemits=True)
    if last.reason != "NotStored" and last.reason not in RETRIED:
        return None
    runs = [attempt for attempt in attempts if not attempt.reemits]
    standstills = _standstills(runs)
    if faults(runs) >= FAILURES or standstills >= STANDSTILLS:
        return None
    return Retry(_ended_at(last) + _wait(runs, standstills), reemits=False)


def faults(attempts: Iterable[Attempt]) -> int:
    """How often the work of a stage, or its node, failed."""
    return sum(attempt.reason in FAULTS for attempt in attempts if not attempt.reemits)


def next_attempt(job: FineTuneJob, stage: StageName, attempts: Sequence[Attempt], now: datetime) -> Attempt:
    """The attempt to record next; its Job does not exist yet."""
    number = attempts[-1].number + 1 if attempts else 1
    follows = retry(attempts) if attempts else None
    return Attempt(
        stage=stage,
        number=number,
        job=child_name(job, stage, number),
        state="Recorded",
        start_time=format_time(now),
        reemits=True if follows is not None and follows.reemits else None,
    )


def at_work(attempt: Attempt, pods: Sequence[Manifest]) -> Attempt:
    """The attempt once its pods may run; what takes them away is remembered when they are gone."""
    seen = disruption(pods) if pods else attempt.disruption
    return attempt.model_copy(update={"state": "Running", "disruption": clip(seen) if seen else None})


def ended_as(attempt: Attempt, outcome: AttemptOutcome, now: datetime) -> Attempt:
    """The attempt with its outcome, which is final."""
    return attempt.model_copy(
        update={
            "state": "Succeeded" if outcome.succeeded else "Failed",
            "reason": word(outcome.reason),
            "message": clip(outcome.message) or None,
            "finish_time": format_time(now),
            "node": outcome.node or attempt.node,
            "failed_grader": outcome.grader,
            "disruption": None,
            "checkpoint_step": _newest(attempt.checkpoint_step, integer(outcome.summary, "checkpointStep")),
        }
    )


def with_checkpoint(attempt: Attempt, step: int | None) -> Attempt:
    """The attempt with the newest checkpoint that it told of, at optimizer step `step`."""
    return attempt.model_copy(update={"checkpoint_step": _newest(attempt.checkpoint_step, step)})


def _newest(known: int | None, told: int | None) -> int | None:
    return max((step for step in (known, told) if step is not None and step >= 0), default=None)


def bad_nodes(attempts: Iterable[Attempt]) -> tuple[str, ...]:
    """The nodes that attempts failed on, the newest last: other ones are preferred."""
    return tuple(dict.fromkeys(attempt.node for attempt in attempts if attempt.node))[-AVOIDED:]


def failed_graders(attempts: Iterable[Attempt]) -> dict[str, str]:
    """The containers of graders that failed in attempts of a stage, and how."""
    return {a.failed_grader: a.message or "it failed" for a in attempts if a.failed_grader is not None}


def condensed(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Old disrupted attempts summed up, so that the list stays short however often a run is preempted."""
    stages = dict.fromkeys(attempt.stage for attempt in attempts)
    return tuple(kept for stage in stages for kept in _condensed(of_stage(attempts, stage)))


def _condensed(attempts: list[Attempt]) -> list[Attempt]:
    if len(attempts) <= LISTED:
        return attempts
    old, recent = attempts[: -LISTED // 2], attempts[-LISTED // 2 :]
    sums: dict[tuple[object, ...], Attempt] = {}
    for attempt in old:
        disrupted = attempt.state == "Failed" and (attempt.reemits or attempt.reason in DISRUPTIONS)
        # Failures count, so each stays by itself.
        key = (attempt.reemits, attempt.gpus, attempt.price_per_hour) if disrupted else (attempt.number,)
        sums[key] = _summed(sums[key], attempt) if key in sums else attempt
    return sorted([*sums.values(), *recent], key=lambda attempt: attempt.number)


def _summed(before: Attempt, attempt: Attempt) -> Attempt:
    return attempt.model_copy(
        update={
            "sums_up": (before.sums_up or 1) + (attempt.sums_up or 1),
            "start_time": before.start_time,
            "held_seconds": (before.held_seconds or 0) + (attempt.held_seconds or 0),
            "checkpoint_step": _newest(before.checkpoint_step, attempt.checkpoint_step),
            "judge_cost": _added(before.judge_cost, attempt.judge_cost),
        }
    )


def _added(one: str | None, other: str | None) -> str | None:
    known = [Decimal(cost) for cost in (one, other) if cost is not None]
    return f"{sum(known):f}" if known else None


def _reemissions(attempts: Sequence[Attempt]) -> int:
    """How many attempts in a row, up to the last one, only looked for a result."""
    runs = [at for at, attempt in enumerate(attempts) if not attempt.reemits]
    return len(attempts) - 1 - runs[-1] if runs else len(attempts)


def _standstills(runs: Sequence[Attempt]) -> int:
    """How many runs in a row, up to the last one, were disrupted without a newer checkpoint."""
    furthest, count = -1, 0
    for run in runs:
        moved = run.checkpoint_step is not None and run.checkpoint_step > furthest
        furthest = max(furthest, run.checkpoint_step or 0)
        count = 0 if moved or run.reason not in DISRUPTIONS else count + 1
    return count


def _wait(runs: Sequence[Attempt], standstills: int) -> timedelta:
    """The first retry follows at once."""
    repeats = max(standstills, faults(runs)) - 1
    if repeats < 1:
        return timedelta(0)
    return timedelta(seconds=min(FIRST_WAIT_SECONDS * 2.0 ** (repeats - 1), LONGEST_WAIT_SECONDS))


def _ended_at(attempt: Attempt) -> datetime:
    return moment_of(attempt.finish_time) or datetime.fromtimestamp(0, UTC)
