"""The next server manifest: which versions every pod holds and where each alias points.

A change of version takes three manifests: list the new version beside the old one; once every ready pod
has it loaded and verified, point the alias at it; once every pod follows the new routes and the old
version has nothing in flight, drop it. Each step is decided from what the pods report, never from time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_operator.contracts.documents import (
    ManifestBase,
    ManifestRoute,
    ManifestTarget,
    ManifestVersion,
    ServerManifest,
)
from finetune_operator.serving.observed import PodState


@dataclass(frozen=True)
class Wanted:
    """One alias and the version that its AdapterDeployment asks for.

    `version` is None while the AdapterDeployment has nothing resolved; `refusal` is a (reason, message)
    that keeps the version off the server whatever the pods say.
    """

    alias: str
    deployment: str
    version: str | None = None
    source: str = ""
    digest: str = ""
    allow_unpromoted: bool = False
    refusal: tuple[str, str] | None = None


@dataclass(frozen=True)
class Table:
    """The decided part of the server manifest: versions by name, and the version of each routed alias."""

    generation: int
    versions: Mapping[str, Mapping[str, Any]]
    routes: Mapping[str, str]


@dataclass(frozen=True)
class AliasReport:
    """What the server says about one AdapterDeployment, shown under `status.adapters`."""

    wanted: Wanted
    state: Literal["Pending", "Loading", "Serving", "Failed"]
    serving: str | None
    reason: str
    message: str
    replicas_ready: int


EMPTY = Table(generation=0, versions={}, routes={})


def read_table(document: Mapping[str, Any] | None) -> Table:
    """Read the table back from a server manifest; no manifest is an empty table."""
    if not document:
        return EMPTY
    versions = {v["name"]: v for v in document.get("versions", [])}
    routes = {r["alias"]: r["targets"][0]["version"] for r in document.get("routes", [])}
    return Table(int(document.get("generation", 0)), versions, routes)


def write_table(table: Table, base: ManifestBase) -> ServerManifest:
    """The server manifest of docs/contracts.md; until canary steps exist a route has one target."""
    routes = tuple(
        ManifestRoute(alias=alias, targets=(ManifestTarget(version=version, weight=100),))
        for alias, version in sorted(table.routes.items())
    )
    versions = tuple(ManifestVersion.model_validate(table.versions[n]) for n in sorted(table.versions))
    return ServerManifest(generation=table.generation, base=base, versions=versions, routes=routes)


def next_table(
    current: Table, wanted: Sequence[Wanted], pods: Sequence[PodState], slots: int
) -> tuple[Table, frozenset[str]]:
    """The table after one step, and the versions that found no slot (`maxCpuLoras`)."""
    routes = _routes(current, wanted, pods)
    versions = {n: v for n, v in current.versions.items() if _still_needed(n, current, routes, wanted, pods)}
    without_slot: set[str] = set()
    for want in _loadable(wanted):
        assert want.version is not None
        if want.version in versions or len(versions) < slots:
            versions[want.version] = _entry(want)
        else:
            without_slot.add(want.version)
    changed = (versions, routes) != (dict(current.versions), dict(current.routes))
    generation = current.generation + 1 if changed or current.generation == 0 else current.generation
    return Table(generation, versions, routes), frozenset(without_slot)


def report(want: Wanted, table: Table, pods: Sequence[PodState], without_slot: frozenset[str]) -> AliasReport:
    """Where one alias stands, in words that an AdapterDeployment can show."""
    serving = (
        table.routes.get(want.alias) if want.refusal is None or want.refusal[0] != "AliasConflict" else None
    )
    state, reason, message = _standing(want, table, pods, without_slot)
    replicas = sum(1 for p in _live(pods) if want.version and phase(p, want.version) == "Ready")
    return AliasReport(want, state, serving, reason, message, replicas)


def _standing(
    want: Wanted, table: Table, pods: Sequence[PodState], without_slot: frozenset[str]
) -> tuple[Literal["Pending", "Loading", "Serving", "Failed"], str, str]:
    if want.refusal is not None:
        return "Failed", *want.refusal
    if want.version is None:
        return "Pending", "NotResolved", "The AdapterDeployment has no adapter resolved yet."
    if want.version in without_slot:
        return "Failed", "InsufficientSlots", _no_slot(table)
    failure = _failure(want.version, pods)
    if failure is not None:
        return "Failed", *failure
    if table.routes.get(want.alias) == want.version and _followed(table.generation, pods):
        return "Serving", "Serving", f"Every ready replica answers {want.alias} with {want.version}."
    return "Loading", "Rolling", f"{want.version} is being loaded and verified on every replica."


def _no_slot(table: Table) -> str:
    held = ", ".join(sorted(table.versions)) or "none"
    return (
        f"All {len(table.versions)} adapter slots are taken ({held}); raise spec.maxCpuLoras of the server."
    )


def _routes(current: Table, wanted: Sequence[Wanted], pods: Sequence[PodState]) -> dict[str, str]:
    routes: dict[str, str] = {}
    for want in wanted:
        if want.refusal is not None and want.refusal[0] == "AliasConflict":
            continue
        kept = current.routes.get(want.alias)
        if want.version and want.refusal is None and _loaded(want.version, current, pods):
            routes[want.alias] = want.version
        elif kept is not None and kept in current.versions:
            routes[want.alias] = kept
    return routes


def _loaded(version: str, current: Table, pods: Sequence[PodState]) -> bool:
    """A version may be routed when every ready pod has verified it, and at least one pod is ready."""
    if version not in current.versions:
        return False
    ready = [p for p in _live(pods) if p.ready]
    return bool(ready) and all(phase(p, version) == "Ready" for p in ready)


def _still_needed(
    name: str, current: Table, routes: Mapping[str, str], wanted: Sequence[Wanted], pods: Sequence[PodState]
) -> bool:
    if name in routes.values() or name in current.routes.values():
        return True
    if any(want.version == name for want in _loadable(wanted)):
        return True
    return not (_followed(current.generation, pods) and _idle(name, pods))


def _loadable(wanted: Iterable[Wanted]) -> list[Wanted]:
    return [w for w in wanted if w.version is not None and w.refusal is None]


def _entry(want: Wanted) -> dict[str, Any]:
    return {
        "name": want.version,
        "source": want.source,
        "digest": want.digest,
        "allowUnpromoted": want.allow_unpromoted,
    }


def _live(pods: Sequence[PodState]) -> list[PodState]:
    return [p for p in pods if not p.terminating and p.state is not None]


def _followed(generation: int, pods: Sequence[PodState]) -> bool:
    """Every ready pod has the routes of this generation in force; a pod we cannot ask has not."""
    ready = [p for p in pods if p.ready and not p.terminating]
    return all(p.state is not None and p.state.get("appliedGeneration", 0) >= generation for p in ready)


def _idle(version: str, pods: Sequence[PodState]) -> bool:
    return all(int(_version(p, version).get("inFlight", 0)) == 0 for p in _live(pods))


def _failure(version: str, pods: Sequence[PodState]) -> tuple[str, str] | None:
    for pod in _live(pods):
        entry = _version(pod, version)
        if entry.get("phase") == "Failed":
            message = str(entry.get("message") or "The agent gave no message.")
            return str(entry.get("reason") or "LoadFailed"), f"{pod.name}: {message}"
    return None


def phase(pod: PodState, version: str) -> str:
    """The phase that a pod's agent reports for a version, or an empty string."""
    return str(_version(pod, version).get("phase", ""))


def _version(pod: PodState, version: str) -> Mapping[str, Any]:
    entries = (pod.state or {}).get("versions", [])
    return next((e for e in entries if e.get("name") == version), {})
