"""train: what every process of the gang does (launch/ starts and supervises them)."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.base.shape import read_shape
from finetune_trainer.contracts import Job, Result
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import Interrupted, UserError
from finetune_trainer.evaluation.curves import write_curves
from finetune_trainer.planning.choose import NoFit, choose
from finetune_trainer.planning.layouts import Gpu, Workload, gpus_of, workload_of
from finetune_trainer.planning.memory import GIB
from finetune_trainer.planning.time import mfu
from finetune_trainer.progress import ProgressServer
from finetune_trainer.results import succeeded
from finetune_trainer.training.callbacks import ReportStep, StepReport
from finetune_trainer.training.core import Outcome, train
from finetune_trainer.training.plan import Execution, Folders, LoraPlan, TrainPlan, cpu_execution
from finetune_trainer.training.signals import StopRequest
from finetune_trainer.words import plural
from finetune_trainer.workspace import Workspace

_log = logging.getLogger(__name__)


def train_process(job: Job, workspace: Workspace, stop: StopRequest, beat: ReportStep) -> Result:
    """One process of the gang; all return the same summary. Interrupted once the checkpoint is complete.

    `beat` is called with everything that the process begins.
    """
    prepared = check_prepared(workspace, job)
    execution = plan_execution(job, prepared.summary, workspace.base_dir(job))
    plan = read_plan(prepared.summary, execution)
    folders = Folders(
        workspace.base_dir(job), workspace.dataset_train, workspace.checkpoints, workspace.output_dir(job)
    )
    key = prepared.training_key
    if int(os.environ.get("RANK", "0")) != 0:
        return _result(job, train(plan, folders, key, stop, beat), {})
    with ProgressServer("train") as server:
        server.update(total_steps=prepared.summary["training"]["steps"])
        outcome = train(plan, folders, key, stop, _reporter(server, beat))
        write_curves(workspace, outcome.losses, outcome.learning_rates)
        return _result(job, outcome, _measured(job, prepared.summary, folders.model, outcome))


def read_plan(summary: dict[str, Any], execution: Execution) -> TrainPlan:
    """What prepare chose, laid out as told."""
    chosen, lora = summary["training"], summary["lora"]
    return TrainPlan(
        epochs=chosen["epochs"],
        learning_rate=chosen["learningRate"],
        effective_batch_size=chosen["effectiveBatchSize"],
        seed=chosen["seed"],
        lora=_lora(lora, summary["method"]) if lora else None,
        execution=execution,
        checkpoint_bytes=summary["checkpointBytes"],
    )


def _lora(chosen: dict[str, Any], method: str) -> LoraPlan:
    return LoraPlan(
        rank=chosen["rank"],
        alpha=chosen["alpha"],
        rank_stabilized=chosen["rankStabilized"],
        target_modules=tuple(chosen["targetModules"]),
        quantized_base=method == "QLoRA",
    )


def plan_execution(job: Job, summary: dict[str, Any], model: Path) -> Execution:
    """The layout for this device's memory; UserError when nothing fits, with what to change."""
    if not torch.cuda.is_available():
        return cpu_execution(summary["method"], job.spec.training)
    device = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", "0")))
    gpu = Gpu(round(device.total_memory / GIB, 2), device.name)
    plan = choose(_workload(job, summary, model, gpu), gpus_of(job.other_gpus))
    _log.info("memory plan: %s", json.dumps(plan.document()))
    if isinstance(plan, NoFit):
        raise UserError(f"{device.name}: {plan.message}")
    setup = plan.layout.setup
    return Execution(
        plan.layout.micro_batch_tokens, setup.gradient_checkpointing, setup.zero_stage, setup.offload
    )


def _workload(job: Job, summary: dict[str, Any], model: Path, gpu: Gpu) -> Workload:
    return workload_of(
        job.spec,
        read_shape(model),
        gpu,
        method=summary["method"],
        rank=summary["lora"]["rank"] if summary["lora"] else None,
        longest=summary["longestRow"],
        rows=summary["training"]["effectiveBatchSize"],
    )


def _reporter(server: ProgressServer, beat: ReportStep) -> ReportStep:
    def report(done: StepReport) -> None:
        beat(done)
        speed = done.tokens_per_second
        numbers = {
            "step": done.step, "total_steps": done.total_steps, "loss": done.loss, "tokens_per_second": speed,
            "eta_seconds": done.seconds_left, "checkpoint_seconds": done.checkpoint_seconds,
            "checkpoint_step": done.checkpoint_step, "step_seconds": done.step_seconds,
        }  # fmt: skip
        known = {name: value for name, value in numbers.items() if value is not None}
        tell = server.update if done.loss is None else server.stepped
        tell(message=done.message, **known)
        if done.step is None:
            _log.info(done.message)
            return
        _log.info(
            "step %s of %s: loss %s, %s tokens/s",
            done.step,
            done.total_steps,
            done.loss,
            speed and round(speed),
        )

    return report


def _measured(job: Job, summary: dict[str, Any], model: Path, outcome: Outcome) -> dict[str, float]:
    """What a GPU was used for: its highest memory (GiB), and the share of its peak that training reached."""
    if outcome.peak_bytes is None:
        return {}
    found = {"peakGiB": round(outcome.peak_bytes / GIB, 2)}
    peak = job.accelerator and job.accelerator.peak_tflops
    speed = outcome.tokens_per_second
    if peak and speed:
        shape = read_shape(model)
        reached = mfu(speed, shape, summary["method"], summary["attendedTokens"], outcome.world_size, peak)
        found["mfu"] = round(reached, 4)
    return found


def _result(job: Job, outcome: Outcome, measured: dict[str, float]) -> Result:
    if outcome.stopped:
        saved = f"Training was asked to stop; step {outcome.steps} is saved and can be resumed."
        raise Interrupted(saved, outcome.steps)
    speed, loss = outcome.tokens_per_second, outcome.final_loss
    at = f" at {speed:.0f} tokens/s" if speed else ""
    text = f"Trained {plural(outcome.steps, 'step')}{at}; the loss ended at {loss or 0:.3f}."
    summary = {
        "steps": outcome.steps,
        "loss": loss,
        "tokens": outcome.tokens,
        "tokensPerSecond": speed and round(speed, 1),
        "seconds": round(outcome.seconds, 1),
        "resumedFromStep": outcome.resumed_from,
        "worldSize": outcome.world_size,
        **measured,
    }
    return succeeded(job, text, summary)
