"""The /state document and readiness: pure functions of what the agent knows."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune_serving.agent.converge import World
from finetune_serving.agent.record import Record
from finetune_serving.agent.routes import alias_states, ready_versions
from finetune_serving.documents import BaseState, Counts, State, VersionState


@dataclass(frozen=True)
class Process:
    """What is true of this pod beside its versions; `problem` is told, it keeps nobody away."""

    process_id: str
    engine_id: str
    fingerprint: str
    closing: bool = False
    problem: str = ""
    engine_trouble: str = ""
    slots: int = 0


def not_ready(world: World, process: Process) -> str:
    """Why this pod should get no requests, as a sentence; empty when it should.

    Once every alias that can be had has answered, or has had its time, one alias without an answer keeps
    nobody away.
    """
    manifest = world.manifest
    if process.closing:
        return "shutting down"
    if manifest is None:
        return process.problem or "waiting for the server manifest"
    if manifest.base.fingerprint not in (None, process.fingerprint):
        asked = manifest.base.fingerprint
        return f"the base model has fingerprint {process.fingerprint}, the server asks for {asked}"
    if not world.engine_up:
        return process.engine_trouble or _waiting(process)
    if not world.opened:
        missing = sorted(manifest.routed() - ready_versions(world.records))
        return f"waiting for {', '.join(missing)}" if missing else "no routes applied yet"
    return ""


def _waiting(process: Process) -> str:
    return "waiting for the engine" if process.engine_id else "waiting for the engine to load the base model"


def state(world: World, process: Process, tally: Callable[[str], Counts]) -> State:
    """The document for the operator."""
    reason = not_ready(world, process)
    manifest, up = world.manifest, world.engine_up
    return State(
        generation=manifest.generation if manifest else 0,
        applied_generation=world.applied,
        process_id=process.process_id,
        engine_id=process.engine_id,
        ready=reason == "",
        slots=process.slots,
        base=BaseState(name=manifest.base.name if manifest else "", fingerprint=process.fingerprint),
        versions=tuple(_version(r, tally(name)) for name, r in sorted(world.records.items())),
        aliases=alias_states(manifest, world.routes, world.records, engine_up=up) if manifest else (),
        candidates=tuple(sorted(manifest.on_trial())) if manifest else (),
        message=reason or process.problem,
    )


def _version(record: Record, counts: Counts) -> VersionState:
    return VersionState(
        **dict(counts),
        name=record.entry.name,
        digest=record.entry.digest,
        phase=record.phase,
        reason=record.reason,
        message=record.message,
        tried_again=record.phase == "Failed" and record.retry_at is not None,
        load_seconds=record.load_seconds,
    )
