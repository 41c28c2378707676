"""The ways to run a job that its settings leave open, with the memory and the speed of each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from finetune_trainer.base.shape import ModelShape
from finetune_trainer.contracts import (
    GpuSpec,
    GradientCheckpointing,
    LoraSpec,
    Method,
    Offload,
    Spec,
    TrainingSpec,
)
from finetune_trainer.planning.defaults import share_of_batch
from finetune_trainer.planning.memory import (
    Memory,
    Setup,
    fits,
    is_tight,
    predict,
    why_impossible,
)
from finetune_trainer.planning.time import prior_mfu

# Micro-batches that are tried, in token slots: beyond the last they are no faster, and fragmentation grows.
_SIZES = tuple(2**power for power in range(4, 15))
# What is taken unasked. Full: the trainer has been measured with these two stages on GPUs. Adapters: sharing
# the base costs its gathering, so only where it would not fit otherwise; prior_mfu knows.
_CHOSEN_STAGES: dict[Method, tuple[int, ...]] = {"LoRA": (0, 3), "QLoRA": (0, 3), "Full": (2, 3)}
# Selective gradient checkpointing is taken only when asked for: its speed has not been measured.
_CHOSEN_CHECKPOINTING: tuple[GradientCheckpointing, ...] = ("Disabled", "Enabled")
_OFFLOADS: tuple[Offload, ...] = ("None", "Optimizer", "All")


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU; memory as nvidia-smi shows it, the host's (per node) if it is known."""

    memory_gib: float
    name: str = "GPU"
    peak_tflops: float | None = None
    host_memory_gib: float | None = None


@dataclass(frozen=True)
class Fixed:
    """What the job says of its layout; None leaves the choice to the plan."""

    method: Method
    rank: int | None = None
    target_modules: tuple[str, ...] | None = None
    zero_stage: int | None = None
    offload: Offload | None = None
    gradient_checkpointing: GradientCheckpointing | None = None
    micro_batch_tokens: int | None = None


@dataclass(frozen=True)
class Workload:
    """A job on its GPUs: `longest` row in tokens, `rows` per optimizer step over all GPUs (None: unknown)."""

    shape: ModelShape
    fixed: Fixed
    gpu: Gpu
    longest: int
    rows: int | None = None
    gpus_per_node: int = 1
    nodes: int = 1

    @property
    def gpus(self) -> int:
        """All GPUs of the job."""
        return self.gpus_per_node * self.nodes

    @property
    def divisible(self) -> bool:
        """Whether every GPU gets the same number of rows."""
        return self.rows is None or self.rows % self.gpus == 0

    @property
    def tokens_per_gpu(self) -> int | None:
        """The most tokens of a step on one GPU, None if unknown; UserError for rows that cannot be shared."""
        return None if self.rows is None else share_of_batch(self.rows, self.gpus) * self.longest


@dataclass(frozen=True)
class Layout:
    """One way to run a job: what the trainer is told of micro-batches, and what they take.

    A row longer than `micro_batch_tokens` is trained alone, so `setup.tokens` is the larger of the two.
    """

    setup: Setup
    micro_batch_tokens: int
    memory: Memory


def workload_of(
    spec: Spec,
    shape: ModelShape,
    gpu: Gpu,
    *,
    method: Method,
    rank: int | None,
    longest: int,
    rows: int,
) -> Workload:
    """A job on GPUs of one kind: `longest` row in tokens, `rows` per optimizer step over all of them.

    `method` and `rank` are those in force; the adapter's rank is None for method Full.
    """
    training, lora = spec.training or TrainingSpec(), spec.lora or LoraSpec()
    fixed = Fixed(
        method=method,
        rank=rank,
        target_modules=lora.target_modules,
        zero_stage=training.zero_stage,
        offload=training.offload,
        gradient_checkpointing=training.gradient_checkpointing,
        micro_batch_tokens=training.micro_batch_tokens,
    )
    per_node = spec.resources.processes // spec.resources.nodes
    return Workload(shape, fixed, gpu, longest, rows, gpus_per_node=per_node, nodes=spec.resources.nodes)


def gpus_of(others: Iterable[GpuSpec]) -> tuple[Gpu, ...]:
    """Other GPU types as the plan knows them."""
    return tuple(Gpu(other.memory_gib, other.name) for other in others)


def fastest(work: Workload) -> Layout | None:
    """The layout with the highest expected MFU among those that fit, and are not tight if any is not.

    Offloading only when nothing else fits: the host's memory may not be known, and a pod that takes too much
    is killed. Of equally fast layouts the one that needs less of the GPU.
    """
    gpu = work.gpu
    fitting = (
        layout for layout in _layouts(work) if fits(layout.memory, gpu.memory_gib, gpu.host_memory_gib)
    )
    return max(fitting, key=lambda layout: _worth(layout, gpu), default=None)


def smallest(work: Workload) -> Layout:
    """The layout that needs the least of the GPU; UserError when what the job says cannot be combined."""
    layouts = list(_layouts(work))
    if not layouts:
        # Everything that could clash was given: the first refusal says what.
        predict(work.shape, next(_setups(work, work.longest)))
    return min(layouts, key=lambda layout: (layout.memory.total, layout.memory.host))


def _layouts(work: Workload) -> Iterator[Layout]:
    for tokens in _micro_batches(work):
        for setup in _setups(work, max(tokens, work.longest)):
            if why_impossible(setup) is None:
                yield Layout(setup, tokens, predict(work.shape, setup))


def _micro_batches(work: Workload) -> list[int]:
    """The longest row and larger powers of two, no more than there is to do in a step."""
    most = work.tokens_per_gpu or _SIZES[-1]
    if work.fixed.micro_batch_tokens is not None:
        return [work.fixed.micro_batch_tokens]
    return sorted({work.longest} | {min(size, most) for size in _SIZES if size > work.longest})


def _setups(work: Workload, tokens: int) -> Iterator[Setup]:
    fixed = work.fixed
    chosen = _CHOSEN_STAGES[fixed.method]
    alone = work.gpus == 1 and fixed.method != "Full"  # with nobody to share a base with
    stages = (chosen[:1] if alone else chosen) if fixed.zero_stage is None else (fixed.zero_stage,)
    offloads = _OFFLOADS if fixed.offload is None else (fixed.offload,)
    recomputed = (
        _CHOSEN_CHECKPOINTING if fixed.gradient_checkpointing is None else (fixed.gradient_checkpointing,)
    )
    for stage, offload, checkpointing in product(stages, offloads, recomputed):
        yield Setup(
            method=fixed.method,
            tokens=tokens,
            rank=fixed.rank,
            target_modules=fixed.target_modules,
            gpus_per_node=work.gpus_per_node,
            nodes=work.nodes,
            zero_stage=stage,
            offload=offload,
            gradient_checkpointing=checkpointing,
        )


def _worth(layout: Layout, gpu: Gpu) -> tuple[bool, bool, float, float]:
    on_gpu, memory = layout.setup.offload == "None", layout.memory
    return on_gpu, not is_tight(memory, gpu.memory_gib), prior_mfu(layout.setup), -memory.total
