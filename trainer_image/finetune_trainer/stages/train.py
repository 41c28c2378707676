"""train: what every process of the gang does (launch/ starts and supervises them)."""

import logging
import os
from typing import Any

from finetune_trainer.contracts import Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import Interrupted
from finetune_trainer.progress import ProgressServer
from finetune_trainer.results import succeeded
from finetune_trainer.training.core import Outcome, train
from finetune_trainer.training.plan import Folders, LoraPlan, TrainPlan
from finetune_trainer.training.signals import StopRequest
from finetune_trainer.workspace import Workspace

_log = logging.getLogger(__name__)


def train_process(job: Job, workspace: Workspace, stop: StopRequest) -> Result:
    """One process of the gang; all return the same summary. Interrupted once the checkpoint is complete."""
    prepared = check_prepared(workspace, job)
    plan = read_plan(prepared.summary)
    folders = Folders(
        workspace.base_dir(job), workspace.dataset_train, workspace.checkpoints, workspace.output_dir(job)
    )
    if int(os.environ.get("RANK", "0")) != 0:
        return _result(job, train(plan, folders, job.input_digest, stop, lambda *_: None))
    with ProgressServer("train") as server:
        server.update(total_steps=prepared.summary["training"]["steps"], message="loading the model")
        return _result(job, train(plan, folders, job.input_digest, stop, _reporter(server)))


def read_plan(summary: dict[str, Any]) -> TrainPlan:
    """What prepare chose."""
    chosen, lora = summary["training"], summary["lora"]
    return TrainPlan(
        epochs=chosen["epochs"],
        learning_rate=chosen["learningRate"],
        effective_batch_size=chosen["effectiveBatchSize"],
        seed=chosen["seed"],
        lora=LoraPlan(lora["rank"], lora["alpha"]) if lora else None,
    )


def _reporter(server: ProgressServer) -> Any:
    def report(
        step: int, total: int, loss: float | None, speed: float | None, seconds_left: float | None
    ) -> None:
        server.update(
            step=step, total_steps=total, loss=loss, tokens_per_second=speed, eta_seconds=seconds_left,
            message="training",
        )  # fmt: skip
        _log.info("step %s of %s: loss %s, %s tokens/s", step, total, loss, speed and round(speed))

    return report


def _result(job: Job, outcome: Outcome) -> Result:
    if outcome.stopped:
        raise Interrupted(f"Training was asked to stop; step {outcome.steps} is saved and can be resumed.")
    speed = outcome.tokens / outcome.seconds
    loss = outcome.final_loss
    text = f"Trained {outcome.steps} steps at {speed:.0f} tokens/s; the loss ended at {loss or 0:.3f}."
    summary = {
        "steps": outcome.steps,
        "loss": loss,
        "tokens": outcome.tokens,
        "tokensPerSecond": round(speed, 1),
        "seconds": round(outcome.seconds, 1),
        "resumedFromStep": outcome.resumed_from,
        "worldSize": outcome.world_size,
    }
    return succeeded(job, text, summary)
