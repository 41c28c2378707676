"""Rollouts by steps on one server: what its pods show of each, and how far it is after this look."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime

from finetune_operator.api.rollout import ProcessCounters, RolloutRecord
from finetune_operator.canary.machine import Change, Coming, Leaving, Look, advance, hold_ends
from finetune_operator.core.manifests import text
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.routing import followed, idle, refused, verified
from finetune_operator.serving.table import Table
from finetune_operator.serving.wanted import Rejection, Wanted

AT_ONCE = 16
COUNTED = 24  # the counters of so many fit into the status, whatever the number of replicas
_COMING: dict[str, Coming] = {"Loading": "Load", "Verifying": "Verify", "Ready": "Verify"}


def with_rollouts(
    observed: Observed, current: Table, wanted: Sequence[Wanted], now: datetime
) -> tuple[Wanted, ...]:
    """The requests, each with how far its rollout is; one that was rolled back is kept off the server."""
    records = {record.deployment: record for record in observed.server.status.rollouts}
    sharing = {name for name, record in records.items() if _shares(record)}
    paused = {want.deployment for want in wanted if want.rollout is not None and want.rollout.paused}
    scene, steered = _Scene(observed, current, now), []
    for want in wanted:
        turn = want.deployment in sharing or _room(sharing, paused)
        after = scene.steered(want, records.get(want.deployment), turn)
        if after.record is not None and _shares(after.record):
            sharing.add(want.deployment)
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


@dataclass(frozen=True)
class _Scene:
    """What one look shows of all rollouts of a server."""

    observed: Observed
    current: Table
    now: datetime

    def steered(self, want: Wanted, before: RolloutRecord | None, turn: bool) -> Wanted:
        """The request after this look.

        A spec that asks for something else, which is not known yet, neither tries a version again that was
        rolled back nor, where it has no rollout any more, gives one that is under way every request. What is
        refused in a step, or cannot be read any more and so not be judged, gives its share back.
        """
        route, target = self.current.routes.get(want.alias), want.target
        if want.rejection is not None:
            ends = before is not None and before.phase == "Shift"
            return replace(want, record=None if ends else before)
        if target is None or route is None:
            return _with_record(want, before) if _is_rolled_back(want, before) else want
        goes_on = not want.current and before is not None and before.to_version == target.name
        if want.rollout is None:
            return _with_record(want, before) if goes_on else want
        generation = before.generation if before is not None and goes_on else want.generation
        change = Change(want.deployment, generation, target.name, target.digest, route.stable)
        return _with_record(
            want, advance(want.rollout, before, change, self._look(want, change, before, turn))
        )

    def _look(self, want: Wanted, change: Change, before: RolloutRecord | None, turn: bool) -> Look:
        pods, current = self.observed.live, self.current
        return Look(
            now=self.now,
            verified=verified(change.to, current, pods),
            followed=followed(current.generation, pods),
            coming=_coming(change.to, pods),
            leaving=_leaving(before.from_version if before is not None else "", current, pods),
            given_up=_given_up(change.to, pods),
            turn=turn,
            awaited=want.awaited,
            counters=tuple(_counters(pod, change) for pod in self.observed.pods if pod.process),
            uncounted=tuple(pod.name for pod in pods if pod.ready and pod.state and not pod.process),
        )


def _room(sharing: Set[str], paused: Set[str]) -> bool:
    """Whether another rollout may begin. A pause lasts as long as somebody likes, so it keeps nobody waiting
    before the counters take all the room of the status.
    """
    return len(sharing - paused) < AT_ONCE and len(sharing) < COUNTED


def _shares(record: RolloutRecord) -> bool:
    """Whether both versions get requests, which are counted."""
    return record.phase == "Shift" and record.weight > 0


def _is_rolled_back(want: Wanted, before: RolloutRecord | None) -> bool:
    """Whether the version was rolled back and the spec is still the same; no route is no reason to try it."""
    if before is None or want.rollout is None or before.phase != "RolledBack":
        return False
    return (before.to_version, before.generation) == (want.version, want.generation)


def _with_record(want: Wanted, record: RolloutRecord | None) -> Wanted:
    if record is not None and record.phase == "RolledBack":
        return replace(want, record=record, rejection=Rejection(record.reason, record.message))
    return replace(want, record=record)


def _counters(pod: PodState, change: Change) -> ProcessCounters:
    return ProcessCounters(
        process=pod.process, stable=pod.counters(change.stable), canary=pod.counters(change.to)
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
    """Why no replica can have the version; one that has it or tries again says nothing against it."""
    told = [pod for pod in pods if pod.phase(version)]
    if not refused(version, pods) or any(pod.tries_again(version) for pod in told):
        return None
    entry = told[0].version(version)
    return f"No replica can have it: {text(entry, 'reason')}: {text(entry, 'message')}"
