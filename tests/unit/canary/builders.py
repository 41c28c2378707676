"""Rollouts, looks and counters with what a test does not care about filled in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator.api.rollout import ProcessCounters, Rollout, RolloutRecord
from finetune_operator.canary.machine import Change, Look, advance

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
OLD, NEW = "reviews--aaaaaaaaaaaa", "reviews--bbbbbbbbbbbb"
OLD_DIGEST, NEW_DIGEST = "sha256:" + "a" * 64, "sha256:" + "b" * 64
CHANGE = Change("reviews", 2, NEW, NEW_DIGEST, OLD)
VERIFIED = Look(NOW, verified=True, followed=True)
STEPS = [{"weight": 10, "holdSeconds": 60}, {"weight": 50, "holdSeconds": 120}]
LIMIT = {"maxErrorRate": "0.02", "minRequests": 100}


def rollout(**more: Any) -> Rollout:
    return Rollout.model_validate({"steps": STEPS, **more})


def told(
    stable: tuple[int, int] = (0, 0), canary: tuple[int, int] = (0, 0), process: str = "p1"
) -> ProcessCounters:
    """Requests and failures of both versions by one gateway process."""
    return ProcessCounters(
        process=process,
        stable=(*stable, 0, 0, stable[0] * 100, 0),
        canary=(*canary, 0, 0, canary[0] * 100, 0),
    )


def after(
    spec: Rollout,
    record: RolloutRecord | None,
    seconds: float,
    *counters: ProcessCounters,
    change: Change = CHANGE,
    **more: Any,
) -> RolloutRecord:
    """The rollout after a look so many seconds after NOW."""
    look = replace(VERIFIED, now=NOW + timedelta(seconds=seconds), counters=counters, **more)
    found = advance(spec, record, change, look)
    assert found is not None
    return found


def first_step(spec: Rollout, *counters: ProcessCounters) -> RolloutRecord:
    """At 10 of 100 requests since NOW."""
    record = after(spec, None, 0, *counters)
    assert (record.phase, record.weight) == ("Shift", 10)
    return record
