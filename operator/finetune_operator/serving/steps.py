"""Rollouts by steps on one server: what its pods show of each, and how far it is after this look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from finetune_operator.api.rollout import ProcessCounters, RolloutRecord
from finetune_operator.canary.machine import Change, Coming, Leaving, Look, advance, hold_ends
from finetune_operator.core.manifests import text
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.routing import followed, idle, verified
from finetune_operator.serving.table import Table
from finetune_operator.serving.wanted import Rejection, Wanted

AT_ONCE = 16  # the counters of so many fit into the status, whatever the number of replicas
_COMING: dict[str, Coming] = {"Loading": "Load", "Verifying": "Verify", "Ready": "Verify"}


def with_rollouts(
    observed: Observed, current: Table, wanted: Sequence[Wanted], now: datetime
) -> tuple[Wanted, ...]:
    """The requests, each with how far its rollout is; one that was rolled back is kept off the server."""
    records = {record.deployment: record for record in observed.server.status.rollouts}
    under_way = {name for name, record in records.items() if record.phase == "Shift"}
    steered = []
    for want in wanted:
        turn = want.deployment in under_way or len(under_way) < AT_ONCE
        after = _steered(want, records.get(want.deployment), current, observed, now, turn)
        if after.record is not None and after.record.phase == "Shift":
            under_way.add(want.deployment)
        steered.append(after)
    return tuple(steered)


def next_hold_end(wanted: Sequence[Wanted]) -> datetime | None:
    """When the first step's time is over: nothing else wakes the operator then."""
    ends = [
        hold_ends(want.rollout, want.record)
        for want in wanted
        if want.rollout is not None and want.record is not None and want.record.reason == "Holding"
    ]
    return min((end for end in ends if end is not None), default=None)


def _steered(
    want: Wanted,
    before: RolloutRecord | None,
    current: Table,
    observed: Observed,
    now: datetime,
    turn: bool,
) -> Wanted:
    route = current.routes.get(want.alias)
    if want.rejection is not None:
        return replace(want, record=before)
    if want.rollout is None or want.target is None or route is None:
        return want
    change = Change(want.deployment, want.generation, want.target.name, want.target.digest, route.stable)
    record = advance(want.rollout, before, change, _look(change, before, current, observed, now, turn))
    if record is not None and record.phase == "RolledBack":
        return replace(want, record=record, rejection=Rejection(record.reason, record.message))
    return replace(want, record=record)


def _look(
    change: Change,
    before: RolloutRecord | None,
    current: Table,
    observed: Observed,
    now: datetime,
    turn: bool,
) -> Look:
    pods = observed.live
    left = before.from_version if before is not None else ""
    return Look(
        now=now,
        verified=verified(change.to, current, pods),
        followed=followed(current.generation, pods),
        coming=_coming(change.to, pods),
        leaving=_leaving(left, current, pods),
        given_up=_given_up(change.to, pods),
        turn=turn,
        counters=tuple(
            ProcessCounters(
                process=pod.process, stable=pod.counters(change.stable), canary=pod.counters(change.to)
            )
            for pod in observed.pods
            if pod.state is not None
        ),
    )


def _coming(version: str, pods: Sequence[PodState]) -> Coming:
    """How far the last replica is."""
    found = {_COMING.get(pod.phase(version), "Preflight") for pod in pods}
    order: tuple[Coming, ...] = ("Preflight", "Load", "Verify")
    return next((phase for phase in order if phase in found), "Preflight")


def _leaving(version: str, current: Table, pods: Sequence[PodState]) -> Leaving:
    """What is left of the version before."""
    if not followed(current.generation, pods):
        return "Promote"
    if not idle(version, pods):
        return "Drain"
    held = version in current.versions or any(pod.phase(version) for pod in pods)
    return "Unload" if held else "Complete"


def _given_up(version: str, pods: Sequence[PodState]) -> str | None:
    for pod in pods:
        entry = pod.version(version)
        if text(entry, "phase") == "Failed":
            return f"Pod {pod.name} gave it up: {text(entry, 'reason')}: {text(entry, 'message')}"
    return None
