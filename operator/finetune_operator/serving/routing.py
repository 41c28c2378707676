"""The next server manifest: which versions every pod holds and where each alias points.

A change of version takes three manifests: list the new version beside the old one; once every ready pod
has it loaded and verified, point the alias at it; once every pod follows the new routes and the old
version has nothing in flight, drop it. A rollout by steps (steps.py) puts one manifest for each weight in
between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from finetune_operator.api.rollout import Rollout, RolloutRecord
from finetune_operator.canary.machine import PROMOTED
from finetune_operator.contracts.server_manifest import (
    ManifestRoute,
    ManifestShadow,
    ManifestTarget,
    ManifestVersion,
)
from finetune_operator.core.manifests import integer
from finetune_operator.serving.observed import PodState
from finetune_operator.serving.table import Table, alias_of, whole_route
from finetune_operator.serving.wanted import Wanted


@dataclass(frozen=True)
class Slots:
    """`aliases` is how many a server serves (`maxCpuLoras`), `engine` how many versions an engine holds.

    The difference is the surge slot: with it a server whose aliases fill it can still roll one of them.
    """

    aliases: int
    engine: int


@dataclass(frozen=True)
class Step:
    """The table after one step. `holding` are the versions that take a slot of the engines, `without_slot`
    the wanted ones for which there is none. `full`: aliases that stay take every slot.
    """

    table: Table
    holding: frozenset[str]
    without_slot: frozenset[str]
    full: bool

    @cached_property
    def aliases(self) -> tuple[str, ...]:
        """The aliases that take a slot, in order."""
        return tuple(sorted({alias_of(name) for name in self.holding}))


def next_step(
    current: Table,
    wanted: Sequence[Wanted],
    pods: Sequence[PodState],
    slots: Slots,
    candidate: ManifestVersion | None = None,
) -> Step:
    """One step towards what is wanted; `pods` are the live ones. Without a change the generation stays.

    The candidate of a run is held without a route, in a slot that no alias needs: never the surge slot, also
    while a version that is being rolled takes one of the others.
    """
    routes = _routes(current, wanted, pods)
    versions = _still_needed(current, routes, wanted, pods, candidate)
    holding = {name for name in versions if not refused(name, pods)}
    aliases = {alias_of(name) for name in holding}
    without_slot = set()
    for want in wanted:
        if not want.loadable or want.target is None:
            continue
        name = want.target.name
        # A new alias needs a slot of its own; the next version of one that answers may use the surge slot.
        room = want.alias in routes or len(aliases) < slots.aliases
        if name in versions:
            versions[name] = want.target
        elif room and len(holding) < slots.engine:
            versions[name] = want.target
            holding.add(name)
            aliases.add(want.alias)
        else:
            without_slot.add(name)
    if candidate is not None and candidate.name not in versions:
        if len(holding) < min(slots.aliases, slots.engine):
            versions[candidate.name] = candidate
            holding.add(candidate.name)
            aliases.add(alias_of(candidate.name))
        else:
            without_slot.add(candidate.name)
    changed = (versions, routes) != (dict(current.versions), dict(current.routes))
    generation = current.generation + 1 if changed or current.generation == 0 else current.generation
    staying = aliases & {want.alias for want in wanted if want.keeps_route}
    full = len(staying) >= slots.aliases
    return Step(Table(generation, versions, routes), frozenset(holding), frozenset(without_slot), full)


def followed(generation: int, pods: Sequence[PodState]) -> bool:
    """Whether every ready pod has the routes of this generation in force; a silent pod has not."""
    return all(pod.applied >= generation for pod in pods if pod.ready)


def verified(version: str, current: Table, pods: Sequence[PodState]) -> bool:
    """A version may be routed when every ready pod that speaks has verified it, and at least one has."""
    ready = [pod for pod in pods if pod.ready and pod.state is not None]
    return version in current.versions and bool(ready) and all(p.phase(version) == "Ready" for p in ready)


def idle(version: str, pods: Sequence[PodState]) -> bool:
    """Whether no pod has a request of the version in flight."""
    return all((integer(pod.version(version), "inFlight") or 0) == 0 for pod in pods)


def _routes(current: Table, wanted: Sequence[Wanted], pods: Sequence[PodState]) -> dict[str, ManifestRoute]:
    found = ((want.alias, _route(want, current, pods)) for want in wanted if want.keeps_route)
    return {alias: route for alias, route in found if route is not None}


def _route(want: Wanted, current: Table, pods: Sequence[PodState]) -> ManifestRoute | None:
    kept, record = current.routes.get(want.alias), want.record
    shifts = record is not None and record.phase == "Shift"
    if want.rollout is not None and record is not None and shifts and _listed(record, want, current):
        return _split(want.alias, want.rollout, record)
    at_once = record is None or record.phase in PROMOTED
    if at_once and want.loadable and want.version and verified(want.version, current, pods):
        return whole_route(want.alias, want.version)
    if kept is None or kept.stable not in current.versions:
        return None
    refused_now = want.rejection is not None
    back = want.version == kept.stable or refused_now or (record is not None and not shifts)
    return whole_route(want.alias, kept.stable) if back else kept


def _listed(record: RolloutRecord, want: Wanted, current: Table) -> bool:
    """Whether pods hold both versions of a rollout, which they do not yet where the table was lost."""
    return want.loadable and {record.from_version, record.to_version} <= set(current.versions)


def _split(alias: str, rollout: Rollout, record: RolloutRecord) -> ManifestRoute:
    shares = ((record.from_version, 100 - record.weight), (record.to_version, record.weight))
    percent = rollout.shadow.percent if rollout.shadow is not None else None
    return ManifestRoute(
        alias=alias,
        targets=tuple(ManifestTarget(version=version, weight=weight) for version, weight in shares),
        sticky_header=rollout.sticky_header,
        shadow=ManifestShadow(version=record.to_version, percent=percent) if percent else None,
    )


def _still_needed(
    current: Table,
    routes: Mapping[str, ManifestRoute],
    wanted: Sequence[Wanted],
    pods: Sequence[PodState],
    candidate: ManifestVersion | None,
) -> dict[str, ManifestVersion]:
    """The listed versions that are routed, wanted, or may still have requests in flight."""
    routed = (*routes.values(), *current.routes.values())
    used = {version for route in routed for version in route.versions}
    used |= {want.version for want in wanted if want.version is not None and want.loadable}
    used |= {candidate.name} if candidate is not None else set()
    left = followed(current.generation, pods)
    return {
        name: entry
        for name, entry in current.versions.items()
        if name in used or not (left and idle(name, pods))
    }


def refused(version: str, pods: Sequence[PodState]) -> bool:
    """Whether every pod that knows the version refuses it; one alone may be unlucky."""
    phases = {pod.phase(version) for pod in pods} - {""}
    return phases == {"Failed"}
