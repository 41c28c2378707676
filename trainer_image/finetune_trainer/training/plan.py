"""What a training run is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_trainer.contracts import GradientCheckpointing, Method, Offload, TrainingSpec

Precision = Literal["fp32", "bf16"]

# Measured on two cores: fewer, larger products lose less at the threads' barriers (217 tokens/s with one row
# of 220 tokens, 229 with two, 234 with four); beyond, padding and activations (1.3 MB per token) only grow.
CPU_MICRO_BATCH_TOKENS = 1024
_CPU_STAGES: dict[Method, int] = {"LoRA": 0, "QLoRA": 0, "Full": 2}


@dataclass(frozen=True)
class LoraPlan:
    """The adapter and how its base is held.

    `rank_stabilized` scales by alpha / sqrt(rank) (Kalajdzievski 2023, rsLoRA) instead of alpha / rank.
    `target_modules` are last parts of module names, None for all that an adapter can sit on
    (base/targets.py). `quantized_base` holds the base's linear layers in NF4 (method QLoRA).
    """

    rank: int
    alpha: int
    rank_stabilized: bool = False
    target_modules: tuple[str, ...] | None = None
    quantized_base: bool = False


@dataclass(frozen=True)
class Execution:
    """How the work is laid out on the devices; it changes speed and memory, not what is learned.

    `micro_batch_tokens` are the token slots of a micro-batch of one process. `gradient_checkpointing` says
    which activations are computed again in the backward pass: none, all but attention's, all. `zero_stage`
    and `offload` are DeepSpeed's (planning/layouts.py decides).
    """

    micro_batch_tokens: int
    gradient_checkpointing: GradientCheckpointing = "Disabled"
    zero_stage: int = 0
    offload: Offload = "None"


@dataclass(frozen=True)
class TrainPlan:
    """Everything that decides the result, apart from model and data; `lora` None trains all weights.

    `checkpoint_seconds` is the shortest time between two checkpoints, `checkpoint_bytes` the size that is
    expected of one.
    """

    epochs: int
    learning_rate: float
    effective_batch_size: int
    seed: int
    lora: LoraPlan | None
    execution: Execution
    checkpoint_seconds: float = 300.0
    checkpoint_bytes: int = 0


@dataclass(frozen=True)
class Folders:
    """Where a run reads and writes; all processes see the same folders."""

    model: Path
    dataset: Path
    checkpoints: Path
    output: Path


@dataclass(frozen=True)
class Hardware:
    """What the processes run on."""

    cuda: bool
    precision: Precision


def cpu_execution(method: Method, given: TrainingSpec | None) -> Execution:
    """What the job says, else what is fast on few cores; ZeRO is not chosen for memory there."""
    given = given or TrainingSpec()
    return Execution(
        given.micro_batch_tokens or CPU_MICRO_BATCH_TOKENS,
        given.gradient_checkpointing or "Disabled",
        zero_stage=given.zero_stage if given.zero_stage is not None else _CPU_STAGES[method],
    )


def cpu_precision(full: bool, fast_bf16: bool) -> Precision:
    """bf16 with an adapter where the processor has instructions for it (1.5 times as fast there).

    Full training on CPUs is fp32, as the pods of a gang may have different processors.
    """
    return "bf16" if fast_bf16 and not full else "fp32"
