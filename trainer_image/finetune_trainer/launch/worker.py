"""What torchrun starts in every process: the train stage, with its outcome recorded in a file.

torchrun turns every failure into exit code 1, so the reason travels beside it.
"""

import argparse
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from finetune_trainer import logs
from finetune_trainer.contracts import read_job
from finetune_trainer.errors import DiskFull, Interrupted, OutOfMemory, StageError, cause_of
from finetune_trainer.files import full_volume
from finetune_trainer.launch.heartbeat import beat, stacks_on_demand
from finetune_trainer.launch.outcome import INTERRUPTED, SUCCEEDED, UNKNOWN, WorkerOutcome, record
from finetune_trainer.training.patience import STARTING
from finetune_trainer.training.signals import StopRequest
from finetune_trainer.workspace import Workspace

if TYPE_CHECKING:
    from finetune_trainer.training.callbacks import StepReport

# How gloo and NCCL say that a peer is gone.
_LOST_CONTACT = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Train, record the outcome, and end with 0 unless it failed."""
    options = _parser().parse_args(arguments)
    stop = StopRequest()
    stop.install()  # before the slow imports: a signal during them must not kill the process
    job = read_job(options.job)
    logs.configure(job)
    rank = int(os.environ.get("RANK", "0"))
    stacks_on_demand(options.outcomes, rank)
    beat(options.outcomes, rank, "starting", STARTING)
    outcome = _outcome(rank, options, stop)
    record(options.outcomes, outcome)
    end(1 if outcome.failed else 0)


def end(code: int) -> NoReturn:
    """End this process without what libraries do at the end of one; all that matters is on the disk.

    Their threads (gloo, NCCL) may wait for peers for ever, and rarely abort a process that is done.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _outcome(rank: int, options: argparse.Namespace, stop: StopRequest) -> WorkerOutcome:
    try:
        from finetune_trainer.stages.train import train_process

        tell = partial(_tell, options.outcomes, rank)
        result = train_process(read_job(options.job), Workspace(options.workspace), stop, tell)
        return WorkerOutcome(rank, SUCCEEDED, result.message, result.summary)
    except Interrupted as stopped:
        return WorkerOutcome(rank, INTERRUPTED, str(stopped), stopped.summary)
    except StageError as error:
        return WorkerOutcome(rank, error.reason, str(error))
    except Exception as error:
        _log.exception("training failed")
        return WorkerOutcome(rank, *_classified(error, options.workspace))


def _tell(outcomes: Path, rank: int, now: "StepReport") -> None:
    doing = now.message
    if now.step is not None and now.total_steps is not None:
        doing = f"step {min(now.step + 1, now.total_steps)} of {now.total_steps}"
    beat(outcomes, rank, doing, now.within, now.step_seconds)


def _classified(error: Exception, workspace: Path) -> tuple[str, str]:
    """Reason and message of an error that library code raised."""
    cause = cause_of(error)
    if cause is OutOfMemory:
        text = "The model and its micro-batches do not fit into memory"
        return OutOfMemory.reason, f"{text}; use more memory, a shorter maxLength or a smaller rank."
    if cause is DiskFull:
        return DiskFull.reason, full_volume(error, workspace)
    if any(words in str(error) for words in _LOST_CONTACT):
        text = "Training lost contact with another training process, which ended or cannot be reached"
        return UNKNOWN, f"{text}; the logs and events of the other pods say more."
    # The text of an unforeseen error may hold anything (paths, addresses): it stays in the log.
    return UNKNOWN, f"Training failed with {type(error).__name__}; the pod's log has the traceback."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("job", "workspace", "outcomes"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser


if __name__ == "__main__":
    main()
