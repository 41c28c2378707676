"""The ways to run a job that its settings leave open, with the memory and the speed of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from finetune_trainer.planning.defaults import effective_batch
from finetune_trainer.planning.memory import (
    Memory,
    Method,
    Offload,
    Setup,
    fits,
    predict,
    why_impossible,
)
from finetune_trainer.planning.shape import ModelShape
from finetune_trainer.planning.time import prior_mfu

# Micro-batches that are tried, in token slots: beyond the last they are no faster, and fragmentation grows.
_SIZES = tuple(2**power for power in range(4, 15))
# The stages that are taken unasked: on GPUs the trainer has been measured with these two.
_CHOSEN_STAGES: dict[Method, tuple[int, ...]] = {"LoRA": (0,), "QLoRA": (0,), "Full": (2, 3)}


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU; memory as nvidia-smi shows it, the host's (per node) if it is known."""

    memory_gib: float
    name: str = "GPU"
    peak_tflops: float | None = None
    host_memory_gib: float | None = None


@dataclass(frozen=True)
class Given:
    """What the job says; None leaves the choice to the plan."""

    method: Method
    rank: int | None = None
    zero_stage: int | None = None
    offload: Offload | None = None
    checkpointing: bool | None = None
    micro_batch_tokens: int | None = None


@dataclass(frozen=True)
class Request:
    """A job on its GPUs: `longest` row in tokens, `rows` per optimizer step over all GPUs (None: unknown)."""

    shape: ModelShape
    given: Given
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
        if self.rows is None:
            return None
        return effective_batch(self.rows, self.gpus) // self.gpus * self.longest


@dataclass(frozen=True)
class Choice:
    """One way to run a job: what the trainer is told of micro-batches, and what they take.

    A row longer than `micro_batch_tokens` is trained alone, so `setup.tokens` is the larger of the two.
    """

    setup: Setup
    micro_batch_tokens: int
    memory: Memory


def fastest(request: Request) -> Choice | None:
    """The way with the highest expected MFU among those that fit.

    Offloading only when nothing else fits: the host's memory may not be known, and a pod that takes too much
    is killed. Of equals the way that needs less of the GPU.
    """
    fitting = (choice for choice in _choices(request) if _fits(choice, request.gpu))
    return max(fitting, key=_worth, default=None)


def smallest(request: Request) -> Choice:
    """The way that needs the least of the GPU; UserError when what is given cannot be combined."""
    choices = list(_choices(request))
    if not choices:
        # Everything that could clash was given: the first refusal says what.
        predict(request.shape, next(_setups(request, request.longest)))
    return min(choices, key=lambda choice: (choice.memory.total, choice.memory.host))


def _choices(request: Request) -> Iterator[Choice]:
    for tokens in _micro_batches(request):
        for setup in _setups(request, max(tokens, request.longest)):
            if why_impossible(setup) is None:
                yield Choice(setup, tokens, predict(request.shape, setup))


def _micro_batches(request: Request) -> list[int]:
    """The longest row and larger powers of two, no more than there is to do in a step."""
    most = request.tokens_per_gpu or _SIZES[-1]
    if request.given.micro_batch_tokens is not None:
        return [request.given.micro_batch_tokens]
    return sorted({request.longest} | {min(size, most) for size in _SIZES if size > request.longest})


def _setups(request: Request, tokens: int) -> Iterator[Setup]:
    given = request.given
    stages = _CHOSEN_STAGES[given.method] if given.zero_stage is None else (given.zero_stage,)
    offloads: tuple[Offload, ...] = (
        ("none", "optimizer", "all") if given.offload is None else (given.offload,)
    )
    recomputed = (False, True) if given.checkpointing is None else (given.checkpointing,)
    for stage, offload, checkpointing in product(stages, offloads, recomputed):
        yield Setup(
            method=given.method,
            tokens=tokens,
            rank=given.rank,
            gpus_per_node=request.gpus_per_node,
            nodes=request.nodes,
            zero_stage=stage,
            offload=offload,
            checkpointing=checkpointing,
        )


def _worth(choice: Choice) -> tuple[bool, float, float]:
    return choice.setup.offload == "none", prior_mfu(choice.setup), -choice.memory.total


def _fits(choice: Choice, gpu: Gpu) -> bool:
    return fits(choice.memory, gpu.memory_gib, gpu.host_memory_gib)
