"""Start torchrun, hand signals on to its workers, and turn their outcome into the pod's result."""

import logging
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil

from finetune_trainer.container import oom_kills, usable_cores
from finetune_trainer.contracts import Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import (
    DatasetChanged,
    DiskFull,
    Diverged,
    Hang,
    Interrupted,
    OutOfMemory,
    PeersMissing,
    StageError,
    UserError,
)
from finetune_trainer.launch.heartbeat import DUMP_STACKS, heartbeats, hung, sentence, stacks
from finetune_trainer.launch.outcome import (
    INTERRUPTED,
    SUCCEEDED,
    WorkerOutcome,
    decide,
    lost,
    record,
    recorded,
)
from finetune_trainer.launch.processes import default_processes, memory_advice
from finetune_trainer.launch.torchrun import Gang, command, missing_peers, read_gang, worker_environment
from finetune_trainer.results import run_stage, succeeded
from finetune_trainer.training.checkpoints import kept_after_full_disk
from finetune_trainer.workspace import Workspace

_ERRORS: dict[str, type[StageError]] = {
    error.reason: error for error in (UserError, DatasetChanged, Diverged, Hang, PeersMissing)
}
# How often process 1 looks for a failed worker. The files that workers write and the list of torchrun's
# children are a few system calls, and no single event tells of both a recorded failure and a killed worker.
_LOOK_SECONDS = 1.0
_NCCL_ADVICE = "NCCL_DEBUG: INFO in the operator's setting `env` lets the next attempt log what NCCL does."
_log = logging.getLogger(__name__)


class TrainingFailed(StageError):  # noqa: N818
    """The processes ended for a reason that nobody recorded; another attempt may help."""

    reason = "Unknown"
    exit_code = 1


def main(job_path: Path, workspace_path: Path) -> int:
    """Run this pod's part of the train stage and return the exit code of docs/contracts.md.

    Only the first pod of a gang stores the result: the others know no more than how they ended.
    """
    first = os.environ.get("JOB_COMPLETION_INDEX", "0") == "0"
    return run_stage("train", job_path, workspace_path, partial(run, job_path), stores=first)


def run(job_path: Path, job: Job, workspace: Workspace) -> Result:
    """Run torchrun to its end; the result, or the StageError that the workers' outcome stands for."""
    prepared = check_prepared(workspace, job)  # before the slow start of the workers, which check it again
    choose = partial(default_processes, job, prepared.summary, workspace.base_dir(job))
    gang = read_gang(os.environ, choose)
    with tempfile.TemporaryDirectory(prefix="outcomes-") as folder:
        outcome = _supervise(gang, job_path, workspace, Path(folder))
    if outcome.reason == SUCCEEDED:
        return succeeded(job, outcome.message, outcome.summary)
    if outcome.reason == INTERRUPTED:
        raise Interrupted(outcome.message, outcome.summary.get("checkpointStep"))
    if outcome.reason == DiskFull.reason:
        kept = kept_after_full_disk(workspace.checkpoints, prepared.training_key)
        raise DiskFull(f"{outcome.message} {kept}")
    if outcome.reason == OutOfMemory.reason:
        raise OutOfMemory(f"{outcome.message}{memory_advice(job, gang.processes)}")
    if outcome.reason == Hang.reason and job.spec.resources.gpus_per_node:
        raise Hang(f"{outcome.message} {_NCCL_ADVICE}")
    raise _ERRORS.get(outcome.reason, TrainingFailed)(outcome.message)


def _supervise(gang: Gang, job_path: Path, workspace: Workspace, outcomes: Path) -> WorkerOutcome:
    kills = oom_kills()
    own_error = outcomes / "torchrun.json"  # of torchrun itself, which tells its workers other files
    environment = worker_environment(os.environ, gang.processes, usable_cores())
    environment["TORCHELASTIC_ERROR_FILE"] = str(own_error)
    child = subprocess.Popen(command(gang, job_path, workspace.root, outcomes), env=environment)
    _log.info(
        "started torchrun for pod %s of %s with %s processes",
        *(gang.node_rank + 1, gang.nodes, gang.processes),
    )
    forward = _Forward(child)
    # A signal that arrived before this line raised Interrupted; torchrun then ends with the container.
    signal.signal(signal.SIGTERM, forward)
    exit_code = _wait(child, outcomes, gang.processes)
    if missing := missing_peers(own_error, gang):
        return WorkerOutcome(0, PeersMissing.reason, missing)
    return decide(recorded(outcomes), gang.processes, exit_code, forward.terminated, oom_kills() > kills)


def _wait(child: "subprocess.Popen[bytes]", outcomes: Path, processes: int) -> int:
    """torchrun's exit code; its workers are killed once one of them has failed.

    torchrun itself gives them 30 s after SIGTERM, which a worker inside a CUDA call cannot notice. They are
    killed at the second look that finds one lost: those that can notice have recorded by then what they know,
    and workers that torchrun was about to start at the first one are there.
    """
    suspected = killed = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=_LOOK_SECONDS)
        workers, told = _workers(child), recorded(outcomes)
        failed = lost(told, len(workers), processes)
        if failed and suspected:
            if not killed:  # one inside the kernel may take its time to end
                _log_stacks(outcomes)
                _log.error("a worker failed; the other %s of this pod are killed", len(workers))
            _kill(workers)
            killed = True
        elif not failed:
            _look_for_hang(workers, told, outcomes)
        suspected = failed


def _look_for_hang(workers: list[psutil.Process], told: list[WorkerOutcome], outcomes: Path) -> None:
    """Record Hang for a worker that gives no sign of life, and ask all for their stacks.

    The next looks take it for failed like any other; until they kill, the stacks are written.
    """
    now = time.monotonic()
    silent = hung(heartbeats(outcomes), {outcome.rank for outcome in told}, now)
    if silent is None:
        return
    record(outcomes, WorkerOutcome(silent.rank, Hang.reason, sentence(silent, now, datetime.now(UTC))))
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.send_signal(DUMP_STACKS)


def _log_stacks(outcomes: Path) -> None:
    for name, text in stacks(outcomes).items():
        _log.error("%s:\n%s", name, text)


def _workers(child: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The processes that torchrun started in this pod and that still run."""
    with suppress(psutil.NoSuchProcess):
        return [
            each for each in psutil.Process(child.pid).children() if each.status() != psutil.STATUS_ZOMBIE
        ]
    return []


def _kill(workers: list[psutil.Process]) -> None:
    for worker in workers:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)  # torchrun starts each in a session of its own


class _Forward:
    """Hands SIGTERM on to the workers, which save and end; to torchrun itself before it has started any.

    torchrun would kill them after a time of its own; this way only the pod's grace period limits a save.
    """

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self.terminated = False

    def __call__(self, number: int, _frame: object) -> None:
        self.terminated = True
        for process in _workers(self._child) or [self._child]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
