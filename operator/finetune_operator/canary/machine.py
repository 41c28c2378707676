"""The steps of a change of version, one at a time: Preflight, Load, Verify, Shift, Promote, Drain, Unload.

`advance` is pure and total. What it returns is all that is remembered (the ModelServer's status), so that an
operator that starts anew goes on where the last one was. How far a rollout is, is its weight: steps may be
edited while it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from finetune_operator.api.rollout import (
    ProcessCounters,
    Rollout,
    RolloutPhase,
    RolloutRecord,
    RolloutStep,
)
from finetune_operator.canary.analysis import Judgement, judge
from finetune_operator.canary.counting import counted
from finetune_operator.core.times import format_time, moment_of

Coming: TypeAlias = Literal["Preflight", "Load", "Verify"]
Leaving: TypeAlias = Literal["Promote", "Drain", "Unload", "Complete"]
PROMOTED: frozenset[RolloutPhase] = frozenset({"Promote", "Drain", "Unload", "Complete"})
_OTHERS_FIRST = "Other rollouts by steps on this ModelServer come first."


@dataclass(frozen=True)
class Change:
    """What is asked for: the version `to`, made of the adapter `digest`, where `stable` has the requests."""

    deployment: str
    generation: int
    to: str
    digest: str
    stable: str


@dataclass(frozen=True)
class Look:
    """What the replicas show of a change.

    `verified`: every ready one has verified the new version; until then `coming` says how far the last is.
    `followed`: every ready one routes as was decided last; `leaving` is what is left of the version before.
    `given_up` says why no replica can have the new version. `turn`: there is room for one more rollout
    whose new version gets requests. `uncounted` are ready replicas whose image is too old to count what
    `counters` tell. `awaited` says why what the spec asks for by now is not available.
    """

    now: datetime
    verified: bool
    followed: bool
    coming: Coming = "Preflight"
    leaving: Leaving = "Promote"
    given_up: str | None = None
    turn: bool = True
    counters: tuple[ProcessCounters, ...] = ()
    uncounted: tuple[str, ...] = ()
    awaited: str | None = None


def advance(
    rollout: Rollout, before: RolloutRecord | None, change: Change, look: Look
) -> RolloutRecord | None:
    """The rollout after one more look, None where there is none."""
    if change.to == change.stable:
        return _arrived(before, change, look)
    record = before if before is not None and _goes_on(before, change) else _begun(before, change, look.now)
    if record.phase == "RolledBack":
        return record
    record = _with(record, generation=change.generation)
    if rollout.abort == change.digest:
        return _rolled_back(record, "Aborted", "spec.rollout.abort names this version.", look.now)
    if rollout.promote == change.digest or record.returning:
        return _promoted(record, look.now) if look.verified else _coming(record, look)
    if record.phase == "Shift":
        return _shifted(rollout, record, look)
    if record.phase in PROMOTED:
        return record
    return _started(rollout, record, look) if look.verified else _coming(record, look)


def hold_ends(rollout: Rollout, record: RolloutRecord) -> datetime | None:
    """When the time of a step is over, None outside of one."""
    since, step = moment_of(record.since), _step(rollout, record.weight)
    if record.phase != "Shift" or since is None or step is None:
        return None
    return since + timedelta(seconds=step.hold_seconds)


def _goes_on(before: RolloutRecord, change: Change) -> bool:
    same = (before.from_version, before.to_version) == (change.stable, change.to)
    return same and (before.phase != "RolledBack" or before.generation == change.generation)


def _begun(before: RolloutRecord | None, change: Change, now: datetime) -> RolloutRecord:
    """Going back to the version that was there before the last rollout needs no steps, but only once."""
    returning = (
        before is not None
        and before.phase in PROMOTED
        and not before.returning
        and before.from_version == change.to
    )
    return RolloutRecord(
        from_version=change.stable,
        to_version=change.to,
        phase="Preflight",
        since=format_time(now),
        deployment=change.deployment,
        generation=change.generation,
        returning=returning,
    )


def _arrived(before: RolloutRecord | None, change: Change, look: Look) -> RolloutRecord | None:
    """The version that is asked for has every request: the rollout is over, or was taken back."""
    if before is None or before.to_version != change.to or before.phase == "RolledBack":
        return None
    promoted = before if before.phase in PROMOTED else _promoted(before, look.now)
    return _with(promoted, phase=look.leaving)


def _coming(record: RolloutRecord, look: Look) -> RolloutRecord:
    """Not verified everywhere; one that has a share keeps it while a replica lost the version."""
    return record if record.phase == "Shift" else _with(record, phase=look.coming)


def _started(rollout: Rollout, record: RolloutRecord, look: Look) -> RolloutRecord:
    """Verified everywhere: the first step, or, while paused, a route for those who ask for the version."""
    if look.awaited is not None:
        return _with(record, phase="Verify", reason="NotResolved", message=_superseded(look.awaited))
    if rollout.paused:
        shift = _with(record, phase="Shift", since=format_time(look.now))
        return _waiting(shift, "Paused", f"{_where(rollout, 0)} spec.rollout.paused holds it.")
    if not look.turn:
        return _with(record, phase="Verify", reason="WaitingForTurn", message=_OTHERS_FIRST)
    return _next(rollout, record, look)


def _shifted(rollout: Rollout, record: RolloutRecord, look: Look) -> RolloutRecord:
    """One look at a step: back, on, or a while longer."""
    record, judgement = _judged(rollout, record, look)
    failed = look.given_up or (judgement.message if judgement and judgement.verdict == "Fail" else None)
    if failed is not None and rollout.auto_rollback:
        return _rolled_back(record, "RolledBack", failed, look.now)
    if failed is not None:
        remedy = "Set spec.rollout.abort or spec.rollout.promote to its digest, or change spec.adapter."
        return _waiting(record, "AnalysisFailed", f"{failed} {remedy}")
    wait = _wait(rollout, record, judgement, look)
    return _next(rollout, record, look) if wait is None else _waiting(record, *wait)


def _judged(rollout: Rollout, record: RolloutRecord, look: Look) -> tuple[RolloutRecord, Judgement | None]:
    """With what came since the last look, and what it says. Nothing is counted without analysis, or before
    the first step, when only those who name the version get it.
    """
    if rollout.analysis is None or record.weight == 0:
        return _with(record, counts=None, verdict=None), None
    counts = counted(record.counts, look.counters)
    judgement = judge(rollout.analysis, counts)
    return _with(record, counts=counts, verdict=judgement.verdict), judgement


def _wait(
    rollout: Rollout, record: RolloutRecord, judgement: Judgement | None, look: Look
) -> tuple[str, str] | None:
    """Why a step is not over yet, as reason and message."""
    where, ends = _where(rollout, record.weight), hold_ends(rollout, record)
    told = f" {judgement.message}" if judgement is not None else ""
    if rollout.paused:
        return "Paused", f"{where} spec.rollout.paused holds it.{told}"
    if look.awaited is not None:
        return "NotResolved", f"{where} {_superseded(look.awaited)}{told}"
    if record.weight == 0 and not look.turn:
        return "WaitingForTurn", f"{where} {_OTHERS_FIRST}"
    if not (look.verified and look.followed):
        return "Rolling", f"{where} Waiting for every replica to follow.{told}"
    if ends is not None and look.now < ends:
        return "Holding", f"{where} It lasts until {format_time(ends)}.{told}"
    if judgement is None or judgement.verdict == "Pass":
        return None
    if judgement.verdict == "Waiting":
        return "WaitingForRequests", f"{where}{told}{_uncounted(look)}"
    return "Inconclusive", f"{where}{told}"


def _superseded(awaited: str) -> str:
    return f"It takes no further step, since what the spec asks for now is not available: {awaited}"


def _uncounted(look: Look) -> str:
    if not look.uncounted:
        return ""
    return (
        f" The serving image of {', '.join(look.uncounted[:8])} is too old to count requests: set "
        "spec.upgrade.revision of the ModelServer to a new value to replace it."
    )


def _next(rollout: Rollout, record: RolloutRecord, look: Look) -> RolloutRecord:
    """The next larger weight; after the last all requests."""
    ahead = [step for step in rollout.steps if step.weight > record.weight]
    if not ahead:
        return _promoted(record, look.now)
    weight = ahead[0].weight
    record = _with(
        record,
        phase="Shift",
        step=len(rollout.steps) - len(ahead) + 1,
        weight=weight,
        since=format_time(look.now),
        verdict="Waiting" if rollout.analysis is not None else None,
        counts=counted(None, look.counters) if rollout.analysis is not None else None,
    )
    return _waiting(record, "Rolling", f"{_where(rollout, weight)} Waiting for every replica to follow.")


def _promoted(record: RolloutRecord, now: datetime) -> RolloutRecord:
    ended = {"weight": 100, "since": format_time(now), "counts": None, "verdict": None}
    return _with(record, phase="Promote", reason="", message="", **ended)


def _rolled_back(record: RolloutRecord, reason: str, why: str, now: datetime) -> RolloutRecord:
    """`step` stays, to tell where it failed."""
    verdict = None if reason == "Aborted" else "Fail"
    message = f"{why} It is not tried again before the spec changes."
    ended = {"weight": 0, "since": format_time(now), "counts": None, "verdict": verdict}
    return _with(record, phase="RolledBack", reason=reason, message=message[:1024], **ended)


def _waiting(record: RolloutRecord, reason: str, message: str) -> RolloutRecord:
    return _with(record, reason=reason, message=message[:1024])


def _where(rollout: Rollout, weight: int) -> str:
    number = sum(1 for step in rollout.steps if step.weight <= weight)
    if number == 0:
        return "The new version is verified and gets no requests yet."
    return f"Step {number} of {len(rollout.steps)}: {weight} of 100 requests."


def _step(rollout: Rollout, weight: int) -> RolloutStep | None:
    return next((step for step in rollout.steps if step.weight == weight), None)


def _with(record: RolloutRecord, **changes: Any) -> RolloutRecord:
    return record.model_copy(update=changes)
