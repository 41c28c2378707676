"""train: one pod per node, torchrun in each, one attempt living and dying together."""

from __future__ import annotations

import math

from finetune_operator.api.conditions import Fact
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, Cost, MemoryPlan
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.manifests import integer, number
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.placement import gpu_type
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import shared_memory, train_resources
from finetune_operator.render.volumes import add_base, common
from finetune_operator.stages import summaries
from finetune_operator.stages.decision import Decision, Stage, Summary

_STEP_SECONDS = 120
"""For the optimizer step in progress, which ends before training saves, and for the end of the processes."""
_BYTES_PER_SECOND = 200e6
"""How fast a checkpoint is written until it was measured: slow for a network volume."""


def parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The gang: index 0 is found under its name behind a headless Service."""
    asked = job.spec.resources
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    mounts.shared_memory(shared_memory(asked.shared_memory, gpu_type(job, settings), asked.gpus_per_node))
    gang = attempt.job if asked.nodes > 1 else None
    processes = asked.gpus_per_node or asked.processes_per_node  # None: the pod knows its cores and memory
    env = {
        "FT_NODES": str(asked.nodes),
        **({"FT_PROCESSES": str(processes)} if processes else {}),
        "FT_MASTER_ADDR": "127.0.0.1" if gang is None else f"{attempt.job}-0.{gang}",
        "FT_RENDEZVOUS_SECONDS": str(settings.unschedulable_deadline_seconds),
    }
    return PodParts(
        "train",
        mounts,
        train_resources(job, settings),
        env,
        nodes=asked.nodes,
        grace_seconds=grace_seconds(job.status.plan),
        subdomain=gang,
    )


def grace_seconds(plan: MemoryPlan | None) -> int:
    """How long the pods may take to end: by twice what the last save took, else by the planned size.

    No fixed limit lies on top, or a run whose checkpoint takes longer could never save when it is stopped. A
    pod that hangs holds its GPUs for this time, which is in proportion to what stopping well takes.
    """
    return math.ceil(_STEP_SECONDS + saving_seconds(plan))


def saving_seconds(plan: MemoryPlan | None) -> float:
    """How long a checkpoint may take: twice what the last one took, else its planned size at 200 MB/s."""
    measured = plan and plan.checkpoint_seconds
    planned = ((plan and plan.checkpoint_bytes) or 0) / _BYTES_PER_SECOND
    return 2 * float(measured) if measured else planned


def read(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:  # noqa: ARG001 - as every stage
    """Training is done; how good it is, evaluate says. What it measured stands beside what was expected."""
    summary = outcome.summary
    return Decision(
        facts=(Fact("Trained", True, outcome.reason, outcome.message or _facts(summary)),),
        plan=MemoryPlan(measured_gib=summaries.decimal(summary.get("peakGiB"), 2)),
        cost=Cost(mfu=summaries.decimal(summary.get("mfu"))),
    )


def _facts(summary: Summary) -> str:
    steps, loss = integer(summary, "steps"), number(summary, "loss")
    last = "" if loss is None else f", the last loss is {loss:.3f}"
    return f"Training took {'all' if steps is None else steps} steps{last}."


STAGE = Stage("train", "Train", "Trained", "Training", parts, read)
