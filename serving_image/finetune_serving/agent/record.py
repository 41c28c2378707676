"""One version in this pod, and what becomes of it when a step fails or the engine is replaced."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from finetune_serving.documents import Phase, Reason, VersionEntry

_LONGEST_WAIT = 60.0
_LONGEST_WAIT_TO_LOAD = 600.0  # every load stops generation for everyone for a moment
ATTEMPTS = 3


@dataclass(frozen=True)
class Record:
    """One version in this pod. `retry_at` (monotonic seconds) is when to try again; None is never.

    `attempts` counts what failed since it was last Ready, and `reason` and `message` tell of the last one;
    `losses` counts the engine processes in a row that ended meanwhile, and `interrupted` says whether the
    present one has.
    """

    entry: VersionEntry
    phase: Phase = "Fetching"
    reason: Reason = ""
    message: str = ""
    attempts: int = 0
    losses: int = 0
    interrupted: bool = False
    retry_at: float | None = None
    load_seconds: float | None = None
    published: int = 0
    template_kwargs: Mapping[str, JsonValue] = field(default_factory=dict)


def given_up(record: Record) -> bool:
    """Whether nobody should wait for the version: it is refused for good or has failed three times.

    What may pass is tried again all the same.
    """
    if record.phase in ("Ready", "Draining"):
        return False
    return record.attempts >= ATTEMPTS or refused(record)


def refused(record: Record) -> bool:
    """Whether it is not tried again."""
    return record.phase == "Failed" and record.retry_at is None


def ready(record: Record) -> Record:
    """The record after its last step."""
    return replace(
        record, phase="Ready", reason="", message="", attempts=0, losses=0, interrupted=False, retry_at=None
    )


def failed(record: Record, reason: Reason, message: str, now: float, *, retry: bool) -> Record:
    """The record after a refusal; `retry` schedules the next attempt with exponential back-off."""
    attempts = record.attempts + 1
    longest = _LONGEST_WAIT_TO_LOAD if record.phase in ("Loading", "Verifying") else _LONGEST_WAIT
    retry_at = now + _wait(record.attempts, longest) if retry else None
    return replace(
        record, phase="Failed", reason=reason, message=message, attempts=attempts, retry_at=retry_at
    )


def interrupted(record: Record, message: str, now: float) -> Record:
    """The record after the engine vanished in the middle of its load.

    Usually that is the engine's own affair and the load is repeated; an adapter during whose load three
    engine processes in a row ended is not tried a fourth time.
    """
    seen = record if record.interrupted else replace(record, losses=record.losses + 1, interrupted=True)
    if seen.losses >= ATTEMPTS:
        return failed(seen, "LoadFailed", message, now, retry=False)
    return postponed(replace(seen, phase="Loading"), message, now)


def postponed(record: Record, message: str, now: float) -> Record:
    """The record after a step that has to be repeated and says nothing about the version."""
    return replace(record, message=message, retry_at=now + _wait(record.attempts, _LONGEST_WAIT))


def _wait(attempts: int, longest: float) -> float:
    """Seconds until the next attempt: 1, 2, 4 and so on; what fails for days asks for no larger power."""
    return min(2.0 ** min(attempts, 16), longest)


def after_engine_restart(records: Mapping[str, Record]) -> dict[str, Record]:
    """A new engine process holds nothing: what was loaded must be loaded and verified again."""
    return {name: lost(_survived(record)) for name, record in records.items()}


def _survived(record: Record) -> Record:
    """The record after the end of an engine process; one that ends without its load has other reasons."""
    if record.interrupted:
        return replace(record, interrupted=False)
    return replace(record, losses=0) if record.losses else record


def lost(record: Record) -> Record:
    """The record of a version that the engine no longer holds."""
    held = record.phase in ("Verifying", "Ready")
    return replace(record, phase="Loading", retry_at=None) if held else record
