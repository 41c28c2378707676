"""The /state document and readiness: pure functions of what the agent knows."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune_serving.agent.converge import Record, World
from finetune_serving.documents import BaseState, State, VersionState
from finetune_serving.gateway.ledger import Tally


@dataclass(frozen=True)
class Process:
    """What is true of this pod beside its versions."""

    engine_id: str
    fingerprint: str
    closing: bool = False
    manifest_error: str = ""


def not_ready(world: World, process: Process) -> str:
    """Why this pod should get no requests, as a sentence; empty when it should."""
    manifest = world.manifest
    if process.closing:
        return "shutting down"
    if manifest is None:
        return process.manifest_error or "waiting for the server manifest"
    if manifest.base.fingerprint not in (None, process.fingerprint):
        asked = manifest.base.fingerprint
        return f"the base model has fingerprint {process.fingerprint}, the server asks for {asked}"
    if not world.engine_up:
        return "waiting for the engine"
    missing = sorted(n for n in _routed(world) if n not in world.records or world.records[n].phase != "Ready")
    if missing:
        return f"routed but not ready: {', '.join(missing)}"
    return "" if world.applied is not None else "no routes applied yet"


def _routed(world: World) -> frozenset[str]:
    """Versions that must answer: of the routes in force, or of the first ones while none are."""
    manifest = world.applied or world.manifest
    return manifest.routed() if manifest else frozenset()


def state(world: World, process: Process, tally: Callable[[str], Tally]) -> State:
    """The document for the operator."""
    reason = not_ready(world, process)
    manifest = world.manifest
    return State(
        generation=manifest.generation if manifest else 0,
        applied_generation=world.applied.generation if world.applied else 0,
        engine_id=process.engine_id,
        ready=reason == "",
        base=BaseState(name=manifest.base.name if manifest else "", fingerprint=process.fingerprint),
        versions=tuple(_version(r, tally(name)) for name, r in sorted(world.records.items())),
        message=reason or process.manifest_error,
    )


def _version(record: Record, tally: Tally) -> VersionState:
    return VersionState(
        name=record.entry.name,
        digest=record.entry.digest,
        phase=record.phase,
        reason=record.reason,
        message=record.message,
        in_flight=tally.in_flight,
        requests=tally.requests,
        failures=tally.failures,
        load_seconds=record.load_seconds,
    )
