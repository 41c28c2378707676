"""The next server manifest: which versions every pod holds and where each alias points.

A change of version takes three manifests: list the new version beside the old one; once every ready pod
has it loaded and verified, point the alias at it; once every pod follows the new routes and the old
version has nothing in flight, drop it. Each step is decided from what the pods report, never from time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from finetune_operator.contracts.documents import ManifestVersion
from finetune_operator.core.manifests import integer
from finetune_operator.serving.observed import PodState
from finetune_operator.serving.table import Table, alias_of
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


def next_step(current: Table, wanted: Sequence[Wanted], pods: Sequence[PodState], slots: Slots) -> Step:
    """One step towards what is wanted; `pods` are the live ones. Without a change the generation stays."""
    routes = _routes(current, wanted, pods)
    versions = _still_needed(current, routes, wanted, pods)
    holding = {name for name in versions if not _refused(name, pods)}
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
    changed = (versions, routes) != (dict(current.versions), dict(current.routes))
    generation = current.generation + 1 if changed or current.generation == 0 else current.generation
    staying = aliases & {want.alias for want in wanted if want.keeps_route}
    full = len(staying) >= slots.aliases
    return Step(Table(generation, versions, routes), frozenset(holding), frozenset(without_slot), full)


def followed(generation: int, pods: Sequence[PodState]) -> bool:
    """Whether every ready pod has the routes of this generation in force; a silent pod has not."""
    return all(pod.applied >= generation for pod in pods if pod.ready)


def _routes(current: Table, wanted: Sequence[Wanted], pods: Sequence[PodState]) -> dict[str, str]:
    routes: dict[str, str] = {}
    for want in wanted:
        if not want.keeps_route:
            continue
        kept = current.routes.get(want.alias)
        if want.loadable and want.version is not None and _loaded(want.version, current, pods):
            routes[want.alias] = want.version
        elif kept is not None and kept in current.versions:
            routes[want.alias] = kept
    return routes


def _loaded(version: str, current: Table, pods: Sequence[PodState]) -> bool:
    """A version may be routed when every ready pod that speaks has verified it, and at least one has."""
    ready = [pod for pod in pods if pod.ready and pod.state is not None]
    return version in current.versions and bool(ready) and all(p.phase(version) == "Ready" for p in ready)


def _still_needed(
    current: Table, routes: Mapping[str, str], wanted: Sequence[Wanted], pods: Sequence[PodState]
) -> dict[str, ManifestVersion]:
    """The listed versions that are routed, wanted, or may still have requests in flight."""
    used = {*routes.values(), *current.routes.values(), *(w.version for w in wanted if w.loadable)}
    left = followed(current.generation, pods)
    return {
        name: entry
        for name, entry in current.versions.items()
        if name in used or not (left and _idle(name, pods))
    }


def _refused(version: str, pods: Sequence[PodState]) -> bool:
    phases = {pod.phase(version) for pod in pods} - {""}
    return phases == {"Failed"}


def _idle(version: str, pods: Sequence[PodState]) -> bool:
    return all((integer(pod.version(version), "inFlight") or 0) == 0 for pod in pods)
