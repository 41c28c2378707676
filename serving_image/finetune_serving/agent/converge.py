"""What the agent does next: a pure function of the manifest, what the engine holds and the time.

A version goes Fetching -> Loading -> Verifying -> Ready; no longer listed and no longer routed it is
Draining until nothing is in flight, then it is removed. `converge` settles everything that needs no I/O,
names the copies to start and at most one piece of work on the engine, so a change of the manifest is
noticed between any two of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from finetune_serving.agent.record import Record
from finetune_serving.agent.routes import (
    STALLED_SECONDS,
    in_force,
    ready_versions,
    settled,
    unavailable_versions,
    versions_of,
)
from finetune_serving.documents import Phase, Route, ServerManifest, VersionEntry

# A copy that trickles comes nearer with every byte, and must not keep a pod from all others for ever.
OPENING_SECONDS = 1800.0
COPIES = 4  # a copy that hangs must not delay the others

Kind = Literal["Load", "Verify", "Remove"]
_WORK: tuple[tuple[Phase, Kind], ...] = (
    ("Draining", "Remove"),
    ("Verifying", "Verify"),
    ("Loading", "Load"),
)


@dataclass(frozen=True)
class World:
    """Everything `converge` decides from; times are monotonic seconds.

    `routes` are in force, `applied` is the generation that they came from, `unavailable` are the routed
    versions that nobody should wait for, `unrouted` says since when a version is neither routed nor a
    candidate. `opened` is whether every alias that can be had has answered since the engine process started,
    or has had its time.
    `moved_at` is when a version last came nearer to Ready, `engine_at` when the engine process was found.
    `folders` are the digests whose local copies are being written or deleted.
    """

    manifest: ServerManifest | None = None
    records: Mapping[str, Record] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    unavailable: frozenset[str] = frozenset()
    unrouted: Mapping[str, float] = field(default_factory=dict)
    applied: int = 0
    opened: bool = False
    engine_up: bool = False
    in_flight: Mapping[str, int] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()
    moved_at: float = 0.0
    engine_at: float = 0.0
    now: float = 0.0


@dataclass(frozen=True)
class Work:
    """One piece of work on the engine: load, probe the effect, or remove the version everywhere."""

    kind: Kind
    version: str


@dataclass(frozen=True)
class Decision:
    """The settled world, the next work on the engine if there is any, and the versions to copy now.

    `overdue` are versions whose last requests have had their time.
    """

    world: World
    work: Work | None = None
    copies: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()


def converge(world: World) -> Decision:
    """One step towards the manifest; calling it again without a change decides the same."""
    if world.manifest is None:
        return Decision(world)
    records = {r.entry.name: r for r in _tracked(world.manifest, world.records)}
    routed = _with_routes(replace(world, records=records), world.manifest)
    named = _named(routed.routes.values()) | world.manifest.on_trial()
    listed = {entry.name for entry in world.manifest.versions}
    records = {name: r if name in listed | named else _draining(r) for name, r in records.items()}
    unrouted = {name: world.unrouted.get(name, world.now) for name in records if name not in named}
    after = replace(routed, records=records, unrouted=unrouted)
    return Decision(after, _next_work(after), _copies(after), _overdue(after, world.manifest))


def _tracked(manifest: ServerManifest, known: Mapping[str, Record]) -> list[Record]:
    """A record for every listed version and every version still held."""
    listed = {entry.name: entry for entry in manifest.versions}
    kept = [_updated(record, listed.get(name)) for name, record in known.items()]
    return kept + [Record(entry) for name, entry in listed.items() if name not in known]


def _updated(record: Record, entry: VersionEntry | None) -> Record:
    """A failed version whose entry was changed starts anew; a draining one that is listed again too."""
    if entry is None or (record.entry == entry and record.phase != "Draining"):
        return record
    if record.entry.digest != entry.digest and record.phase != "Failed":
        return _draining(record)  # one name, other content: the old one has to go first
    if record.phase in ("Failed", "Draining", "Fetching"):
        return Record(entry)
    return replace(record, entry=entry)


def _draining(record: Record) -> Record:
    if record.phase == "Draining":
        return record  # the very same: work under way on it must still count
    text = "no longer listed; waiting for its last request"
    return replace(record, phase="Draining", reason="", message=text, attempts=0, retry_at=None)


def _with_routes(world: World, manifest: ServerManifest) -> World:
    ready = ready_versions(world.records)
    names = manifest.routed() | _named(world.routes.values())
    stalled = world.now - world.moved_at > STALLED_SECONDS
    unavailable = unavailable_versions(names, world.records, stalled=stalled)
    complete = settled(manifest, ready, unavailable)
    waited = world.now - world.engine_at > OPENING_SECONDS
    routes = in_force(manifest, world.routes, ready, unavailable)
    return replace(
        world,
        routes=routes,
        unavailable=unavailable & (manifest.routed() | _named(routes.values())),
        applied=manifest.generation if complete else world.applied,
        opened=world.opened or (world.engine_up and (complete or waited)),
    )


def _named(routes: Iterable[Route]) -> frozenset[str]:
    """Every version that may get requests, copies of requests included."""
    routes = tuple(routes)
    shadows = {route.shadow.version for route in routes if route.shadow is not None}
    return frozenset(name for route in routes for name in versions_of(route)) | shadows


def _next_work(world: World) -> Work | None:
    """Removals first (they free slots), then whatever is closest to Ready; all of it needs the engine."""
    if not world.engine_up:
        return None
    due = _due(world)
    found = (Work(kind, r.entry.name) for phase, kind in _WORK for r in due if r.phase == phase)
    return next((work for work in found if not _busy(world, work)), None)


def _busy(world: World, work: Work) -> bool:
    """Whether a removal has to wait for requests or for a copy that is being written."""
    copied = world.records[work.version].entry.digest in world.folders
    return work.kind == "Remove" and (world.in_flight.get(work.version, 0) > 0 or copied)


def _copies(world: World) -> tuple[str, ...]:
    """The versions whose files are copied next; two versions with one digest share a folder."""
    waiting: dict[str, str] = {}
    for record in _due(world):
        if record.phase == "Fetching" or (record.phase == "Failed" and record.retry_at is not None):
            waiting.setdefault(record.entry.digest, record.entry.name)
    names = [name for digest, name in waiting.items() if digest not in world.folders]
    return tuple(names[: max(0, COPIES - len(world.folders))])


def _due(world: World) -> list[Record]:
    return [r for r in world.records.values() if r.retry_at is None or r.retry_at <= world.now]


def _overdue(world: World, manifest: ServerManifest) -> tuple[str, ...]:
    """No route names them any more, and their requests have had their time."""
    return tuple(
        name
        for name, since in world.unrouted.items()
        if world.in_flight.get(name, 0) > 0 and world.now - since > manifest.drain_seconds
    )
