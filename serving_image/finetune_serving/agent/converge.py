"""What the agent does next: a pure function of the manifest, what the engine holds and the time.

A version goes Fetching -> Loading -> Verifying -> Ready; no longer listed and no longer routed it is
Draining until nothing is in flight, then it is removed. `converge` settles everything that needs no I/O
and names at most one piece of work, so a change of the manifest is noticed between any two of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import JsonValue

from finetune_serving.documents import Phase, Reason, ServerManifest, VersionEntry

_LONGEST_WAIT = 60.0
_ENGINE_ATTEMPTS = 3


@dataclass(frozen=True)
class Record:
    """One version in this pod. `retry_at` (monotonic seconds) is when to try again; None is never."""

    entry: VersionEntry
    phase: Phase = "Fetching"
    reason: Reason = ""
    message: str = ""
    attempts: int = 0
    retry_at: float | None = None
    load_seconds: float | None = None
    published: int = 0
    template_kwargs: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """Everything `converge` decides from."""

    manifest: ServerManifest | None = None
    records: Mapping[str, Record] = field(default_factory=dict)
    applied: ServerManifest | None = None
    engine_up: bool = False
    in_flight: Mapping[str, int] = field(default_factory=dict)
    now: float = 0.0


@dataclass(frozen=True)
class Work:
    """One piece of I/O: stage the files, load, probe the effect, or remove the version everywhere."""

    kind: Literal["Fetch", "Load", "Verify", "Remove"]
    version: str


@dataclass(frozen=True)
class Decision:
    """The settled records, the manifest whose routes are in force, and the next work if there is any."""

    records: Mapping[str, Record]
    applied: ServerManifest | None
    work: Work | None


def converge(world: World) -> Decision:
    """One step towards the manifest; calling it again without a change decides the same."""
    if world.manifest is None:
        return Decision(world.records, world.applied, None)
    records = {r.entry.name: r for r in _tracked(world.manifest, world.records)}
    applied = world.manifest if _applicable(world.manifest, records, world.applied) else world.applied
    needed = {entry.name for entry in world.manifest.versions} | (
        applied.routed() if applied else frozenset()
    )
    records = {name: r if name in needed else _draining(r) for name, r in records.items()}
    return Decision(records, applied, _next_work(replace(world, records=records)))


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
    return replace(record, phase="Draining", reason="", message=text, retry_at=None)


def _applicable(
    manifest: ServerManifest, records: Mapping[str, Record], applied: ServerManifest | None
) -> bool:
    """Routes come into force together, and only when every version they name can answer."""
    if applied == manifest:
        return False
    return all(name in records and records[name].phase == "Ready" for name in manifest.routed())


def _next_work(world: World) -> Work | None:
    """Removals first (they free slots), then whatever is closest to Ready; loads wait for the engine."""
    due = [r for r in world.records.values() if r.retry_at is None or r.retry_at <= world.now]
    for phase, kind in (("Draining", "Remove"), ("Verifying", "Verify"), ("Loading", "Load")):
        for record in due:
            if world.engine_up and record.phase == phase and not _busy(world, record):
                return Work(kind, record.entry.name)  # type: ignore[arg-type]  # literals above
    for record in due:
        if record.phase == "Fetching" or (record.phase == "Failed" and record.retry_at is not None):
            return Work("Fetch", record.entry.name)
    return None


def _busy(world: World, record: Record) -> bool:
    return record.phase == "Draining" and world.in_flight.get(record.entry.name, 0) > 0


def after_engine_restart(records: Mapping[str, Record]) -> dict[str, Record]:
    """A new engine process holds nothing: what was loaded must be loaded and verified again."""
    lost = ("Verifying", "Ready")
    return {
        n: replace(r, phase="Loading", retry_at=None) if r.phase in lost else r for n, r in records.items()
    }


def failed(record: Record, reason: Reason, message: str, now: float, *, retry: bool) -> Record:
    """The record after a refusal; `retry` schedules the next attempt with exponential backoff."""
    attempts = record.attempts + 1
    retry_at = now + min(2.0**attempts, _LONGEST_WAIT) if retry else None
    return replace(
        record, phase="Failed", reason=reason, message=message, attempts=attempts, retry_at=retry_at
    )


def interrupted(record: Record, message: str, now: float) -> Record:
    """The record after the engine vanished in the middle of its load.

    Usually that is the engine's own affair and the load is repeated; an adapter that took the engine down
    three times is not tried a fourth time, so that it cannot keep everyone else's model down.
    """
    attempts = record.attempts + 1
    if attempts >= _ENGINE_ATTEMPTS:
        return replace(failed(record, "LoadFailed", message, now, retry=False), attempts=attempts)
    return replace(record, phase="Loading", attempts=attempts, retry_at=now + 2.0**attempts)
