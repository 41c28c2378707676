"""How many processes train in a pod without GPUs where the job leaves it open.

One per whole core: the threads of a single process wait for each other after every product. LoRA of
SmolLM2-135M on two cores made 927 tokens/s by two processes, 515 by one of two threads. Each process holds a
base and a micro-batch of its own, so the pod's memory may hold fewer.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_trainer.base.shape import ModelShape, read_shape
from finetune_trainer.container import multiplies_in_bf16, usable_memory, whole_cores
from finetune_trainer.contracts import Job, LoraSpec, Method
from finetune_trainer.errors import UserError
from finetune_trainer.planning.memory import FIT_SHARE, GIB, Setup, predict
from finetune_trainer.training.plan import cpu_execution, cpu_precision

_MOST = 16  # what resources.processesPerNode allows
# Bytes of a process before it holds a base, and once per pod: libraries, which the processes share, torchrun
# and process 1 (measured with a base of 0.1 million parameters).
_PROCESS, _POD = 650_000_000, 800_000_000
# The logits of a trained token in the head's type, in fp32, and their gradients (measured: 11 bytes for each
# word of the vocabulary).
_LOGIT_BYTES = 12
_FP32_ACTIVATIONS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pod:
    """What a pod may use: whole cores, and bytes of memory; `fast_bf16`: its cores multiply in bf16."""

    cores: int
    memory: int
    fast_bf16: bool


def default_processes(job: Job, summary: dict[str, Any], model: Path) -> int:
    """The processes of this pod, for a job that prepare summed up in `summary` and the base in `model`.

    One in each pod of several: they must agree on the number, and their nodes may differ.
    """
    if job.spec.resources.nodes > 1 or job.spec.resources.gpus_per_node:
        return 1
    pod, rows = read_pod(), _rows(summary)
    chosen = choose(pod, rows, _shape(model), _setup(job, summary))
    _log.info(
        "%s training processes: the pod has %s cores and %.1f GiB of memory, a step %s rows",
        *(chosen, pod.cores, pod.memory / GIB, rows),
    )
    return chosen


def memory_advice(job: Job, processes: int) -> str:
    """What to do, beside the usual, when memory ran out in processes that the pod chose itself; else ""."""
    resources = job.spec.resources
    if processes == 1 or resources.gpus_per_node or resources.processes_per_node:
        return ""
    return (
        f" Each of the {processes} training processes takes memory of its own: "
        "spec.resources.processesPerNode: 1 needs the least."
    )


def read_pod() -> Pod:
    """The pod, or machine, that this runs in."""
    return Pod(whole_cores(), usable_memory(), multiplies_in_bf16())


def choose(pod: Pod, rows: int, shape: ModelShape | None, setup: Setup) -> int:
    """As many processes as the pod has cores and a step `rows`, if its memory holds them; else fewer.

    Rows need not be divisible: a step's rows are shared out by their tokens. A base whose shape is not known
    (None) gets one process.
    """
    most = min(pod.cores, rows, _MOST) if shape else 1
    held = FIT_SHARE * pod.memory
    return next((n for n in range(most, 1, -1) if shape and pod_bytes(shape, setup, n, pod) <= held), 1)


def pod_bytes(shape: ModelShape, setup: Setup, processes: int, pod: Pod) -> float:
    """The peak of a pod's memory by the table of planning/memory.py, which counts 16-bit types.

    In fp32 weights take twice as much, and activations three times (measured). On the CPU the output head
    has no fused kernel, so the logits of a micro-batch count, as if every token were trained; and QLoRA of a
    small base takes no less than LoRA (measured), which is an upper bound for all. Under ZeRO-3 each process
    joins the experts of a mixture while it loads them.
    """
    method: Method = "Full" if setup.method == "Full" else "LoRA"
    peak = predict(shape, replace(setup, method=method, gpus_per_node=processes))
    fp32 = cpu_precision(setup.method == "Full", pod.fast_bf16) == "fp32"
    weights, activations = (2, _FP32_ACTIVATIONS) if fp32 else (1, 1)
    logits = _LOGIT_BYTES * setup.tokens * shape.vocab
    state = peak.gradients + peak.optimizer + peak.adapter
    training = activations * peak.activations + state + logits
    joined = 2 * shape.experts.parameters if shape.experts and setup.zero_stage == 3 else 0
    each = _PROCESS + weights * peak.weights + max(training, weights * joined)
    return _POD + processes * each


def _rows(summary: dict[str, Any]) -> int:
    """The rows of a step, of which a small data set has fewer than the job asks for."""
    return min(int(summary["training"]["effectiveBatchSize"]), int(summary["rows"]))


def _shape(model: Path) -> ModelShape | None:
    """None for a base that its config does not describe: on a CPU that alone must not stop its training."""
    try:
        return read_shape(model)
    except UserError as error:
        _log.warning("one training process, since what the base needs is not known: %s", error)
        return None


def _setup(job: Job, summary: dict[str, Any]) -> Setup:
    execution = cpu_execution(summary["method"], job.spec.training)
    return Setup(
        method=summary["method"],
        tokens=max(execution.micro_batch_tokens, summary["longestRow"]),
        rank=summary["lora"]["rank"] if summary["lora"] else None,
        target_modules=(job.spec.lora or LoraSpec()).target_modules,
        zero_stage=execution.zero_stage,
        gradient_checkpointing=execution.gradient_checkpointing,
    )
