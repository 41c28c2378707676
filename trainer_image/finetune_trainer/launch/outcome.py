"""How the workers of one pod ended, and what that makes of the pod."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.errors import (
    DatasetChanged,
    DiskFull,
    Diverged,
    Hang,
    OutOfMemory,
    PeersMissing,
    UserError,
)
from finetune_trainer.files import write_atomically

_KNOWN = {
    error.reason for error in (UserError, DatasetChanged, OutOfMemory, DiskFull, Diverged, Hang, PeersMissing)
}
SUCCEEDED, INTERRUPTED, UNKNOWN = "Completed", "Interrupted", "Unknown"


@dataclass(frozen=True)
class WorkerOutcome:
    """What one worker recorded before it ended; `reason` as in a result."""

    rank: int
    reason: str
    message: str
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the worker ended without having done what it was asked to."""
        return self.reason not in (SUCCEEDED, INTERRUPTED)


def record(folder: Path, outcome: WorkerOutcome) -> None:
    """Write the outcome where process 1 of the pod looks for it."""
    write_atomically(folder / f"rank-{outcome.rank}.json", json.dumps(asdict(outcome)))


def recorded(folder: Path) -> list[WorkerOutcome]:
    """All outcomes of the pod, by rank."""
    found = [WorkerOutcome(**json.loads(path.read_bytes())) for path in folder.glob("rank-*.json")]
    return sorted(found, key=lambda outcome: outcome.rank)


def lost(outcomes: Sequence[WorkerOutcome], running: int, processes: int) -> bool:
    """Whether a worker failed while others of its pod still run.

    A worker records its outcome before it ends: one that neither runs nor has recorded any was killed.
    """
    silent = processes - len(outcomes) - running > 0
    return running > 0 and (silent or any(outcome.failed for outcome in outcomes))


def decide(
    outcomes: Sequence[WorkerOutcome],
    processes: int,
    exit_code: int,
    terminated: bool,
    out_of_memory: bool,
) -> WorkerOutcome:
    """The pod's outcome: the most telling one of its workers.

    A worker that knows why it failed beats the kernel's memory killer, which beats an interruption; workers
    that only lost contact to a failed one know least. `terminated`: process 1 received SIGTERM.
    """
    telling = [outcome for outcome in outcomes if outcome.reason in _KNOWN]
    if telling:
        return telling[0]
    if out_of_memory:
        text = "The kernel ended a training process because the container ran out of memory"
        return WorkerOutcome(0, OutOfMemory.reason, f"{text}; raise resources.memory.")
    interrupted = [outcome for outcome in outcomes if outcome.reason == INTERRUPTED]
    if interrupted:
        return interrupted[0]
    if len(outcomes) == processes and all(outcome.reason == SUCCEEDED for outcome in outcomes):
        return outcomes[0]  # also when a signal came too late, which torchrun answers with a failure
    if terminated:
        return WorkerOutcome(0, INTERRUPTED, "Training was asked to stop (SIGTERM) before its first step.")
    return next(iter(outcomes), _silent(exit_code))


def _silent(exit_code: int) -> WorkerOutcome:
    text = f"The training processes ended without recording an outcome (torchrun's exit code was {exit_code})"
    return WorkerOutcome(0, UNKNOWN, f"{text}; the pod's log may say more.")
