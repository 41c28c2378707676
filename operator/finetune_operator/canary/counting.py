"""What two versions answered in a step, from counters that begin at 0 with each gateway process."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_operator.api.rollout import MOST_PROCESSES, ProcessCounters, StepCounts, VersionCounts

MOST = 2**40  # no number that a pod makes up may overflow the status


def counted(before: StepCounts | None, told: Sequence[ProcessCounters]) -> StepCounts:
    """The counts after one more look; `before` None begins a step.

    A process counts from the first look at it on, so that nothing is counted that was before the step. One
    that is gone keeps what it had told.
    """
    known = () if before is None else before.processes
    last = {entry.process: entry for entry in known}
    counts = StepCounts() if before is None else before
    stable, canary = counts.stable, counts.canary
    for entry in told:
        seen = last.get(entry.process, entry)
        stable = _with(stable, seen.stable, entry.stable)
        canary = _with(canary, seen.canary, entry.canary)
    return StepCounts(stable=stable, canary=canary, processes=tuple(told[:MOST_PROCESSES]))


def _with(total: VersionCounts, before: tuple[int, ...], now: tuple[int, ...]) -> VersionCounts:
    """Plus what came since; a version that was loaded anew counts from 0."""
    again = any(new < old for old, new in zip(before, now, strict=True))
    grown = now if again else tuple(new - old for old, new in zip(before, now, strict=True))
    requests, failures, empty, cut, took, began = grown
    if requests == 0:
        return total
    return VersionCounts(
        requests=min(total.requests + requests, MOST),
        failures=min(total.failures + failures, MOST),
        empty=min(total.empty + empty, MOST),
        cut=min(total.cut + cut, MOST),
        milliseconds=min(total.milliseconds + took, MOST),
        first_byte_milliseconds=min(total.first_byte_milliseconds + began, MOST),
        batches=total.batches + 1,
        squares=total.squares + took * took / requests,
        first_byte_squares=total.first_byte_squares + began * began / requests,
    )
