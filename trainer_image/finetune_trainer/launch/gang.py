"""Start torchrun, hand signals on to it, and turn its workers' outcome into the pod's result."""

import logging
import os
import signal
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from finetune_trainer.contracts import Job, Result
from finetune_trainer.cores import oom_kills, usable_cores
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import DatasetChanged, Diverged, Interrupted, OutOfMemory, StageError, UserError
from finetune_trainer.launch.outcome import INTERRUPTED, SUCCEEDED, WorkerOutcome, decide, recorded
from finetune_trainer.launch.torchrun import Gang, command, read_gang, worker_environment
from finetune_trainer.results import run_stage, succeeded
from finetune_trainer.workspace import Workspace

_ERRORS: dict[str, type[StageError]] = {
    error.reason: error for error in (UserError, DatasetChanged, OutOfMemory, Diverged)
}
_log = logging.getLogger(__name__)


class TrainingFailed(StageError):  # noqa: N818
    """The processes ended for a reason that nobody recorded; another attempt may help."""

    reason = "Unknown"
    exit_code = 1


def main(job_path: Path, workspace_path: Path) -> int:
    """Run this pod's part of the train stage and return the exit code of docs/architecture.md.

    Only the first pod of a gang stores the result: the others know no more than how they ended.
    """
    first = os.environ.get("JOB_COMPLETION_INDEX", "0") == "0"
    return run_stage("train", job_path, workspace_path, partial(run, job_path), stores=first)


def run(job_path: Path, job: Job, workspace: Workspace) -> Result:
    """Run torchrun to its end; the result, or the StageError that the workers' outcome stands for."""
    gang = read_gang(os.environ)
    check_prepared(workspace, job)  # before the slow start of the workers, which check it again
    with tempfile.TemporaryDirectory(prefix="outcomes-") as folder:
        outcome = _supervise(gang, job_path, workspace, Path(folder))
    if outcome.reason == SUCCEEDED:
        return succeeded(job, outcome.message, outcome.summary)
    if outcome.reason == INTERRUPTED:
        raise Interrupted(outcome.message)
    raise _ERRORS.get(outcome.reason, TrainingFailed)(outcome.message)


def _supervise(gang: Gang, job_path: Path, workspace: Workspace, outcomes: Path) -> WorkerOutcome:
    kills = oom_kills()
    environment = worker_environment(os.environ, gang.processes, usable_cores())
    child = subprocess.Popen(command(gang, job_path, workspace.root, outcomes), env=environment)
    _log.info("started torchrun for pod %s of %s", gang.node_rank + 1, gang.nodes)
    forward = _Forward(child)
    # A signal that arrived before this line raised Interrupted; torchrun then ends with the container.
    signal.signal(signal.SIGTERM, forward)
    exit_code = child.wait()
    return decide(recorded(outcomes), gang.processes, exit_code, forward.terminated, oom_kills() > kills)


class _Forward:
    """Hands SIGTERM on to torchrun, which hands it on to the workers and waits for them."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self.terminated = False

    def __call__(self, number: int, _frame: object) -> None:
        self.terminated = True
        self._child.send_signal(number)
