"""The ways to run a job that its settings leave open, with the memory and the speed of each."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_trainer.errors import UserError
from finetune_trainer.planning.memory import (
    STAGES,
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

# Beyond this a micro-batch is no faster, and padding and fragmentation grow.
MOST_TOKENS = 32768


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
    micro_batch_rows: int | None = None


@dataclass(frozen=True)
class Request:
    """A job on its GPUs: `longest` row in tokens, `effective_batch` rows per step (None: one row per GPU)."""

    shape: ModelShape
    given: Given
    gpu: Gpu
    longest: int
    effective_batch: int | None = None
    gpus_per_node: int = 1
    nodes: int = 1

    @property
    def gpus(self) -> int:
        """All GPUs of the job."""
        return self.gpus_per_node * self.nodes

    @property
    def divisible(self) -> bool:
        """Whether every GPU gets the same number of rows, and that many in micro-batches as given."""
        rows, rest = divmod(self.effective_batch or self.gpus, self.gpus)
        return not rest and not (self.given.micro_batch_rows and rows % self.given.micro_batch_rows)

    @property
    def rows_per_gpu(self) -> int:
        """Rows per GPU and optimizer step; UserError when they cannot be shared out evenly."""
        if not self.divisible:
            text = f"training.effectiveBatchSize is {self.effective_batch or self.gpus} for {self.gpus} GPUs"
            micro = self.given.micro_batch_rows or 1
            raise UserError(
                f"{text} and micro-batches of {micro}; make it a multiple of {self.gpus * micro}."
            )
        return (self.effective_batch or self.gpus) // self.gpus


@dataclass(frozen=True)
class Choice:
    """One way to run a job: rows per micro-batch, micro-batches per step, and what they take."""

    setup: Setup
    rows: int
    accumulation: int
    memory: Memory


def fastest(request: Request) -> Choice | None:
    """The way with the highest expected MFU among those that fit.

    Of equals the one that needs less, then the higher ZeRO stage: it holds gradients for a shorter time.
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
    rows_per_gpu = request.rows_per_gpu
    for rows in _micro_batches(rows_per_gpu, request):
        for setup in _setups(request, rows * request.longest):
            if why_impossible(setup) is None:
                yield Choice(setup, rows, rows_per_gpu // rows, predict(request.shape, setup))


def _micro_batches(rows_per_gpu: int, request: Request) -> list[int]:
    if request.given.micro_batch_rows is not None:
        return [request.given.micro_batch_rows]
    divisors = (rows for rows in range(1, rows_per_gpu + 1) if rows_per_gpu % rows == 0)
    return [rows for rows in divisors if rows == 1 or rows * request.longest <= MOST_TOKENS]


def _setups(request: Request, tokens: int) -> Iterator[Setup]:
    given = request.given
    stages = STAGES[given.method] if given.zero_stage is None else (given.zero_stage,)
    offloads: tuple[Offload, ...] = (
        ("none", "optimizer", "all") if given.offload is None else (given.offload,)
    )
    for stage in stages:
        for offload in offloads:
            for recompute in (False, True) if given.checkpointing is None else (given.checkpointing,):
                yield Setup(
                    method=given.method,
                    tokens=tokens,
                    rank=given.rank,
                    gpus_per_node=request.gpus_per_node,
                    nodes=request.nodes,
                    zero_stage=stage,
                    offload=offload,
                    checkpointing=recompute,
                )


def _worth(choice: Choice) -> tuple[float, float, int]:
    return prior_mfu(choice.setup), -choice.memory.total, choice.setup.zero_stage


def _fits(choice: Choice, gpu: Gpu) -> bool:
    return fits(choice.memory, gpu.memory_gib, gpu.host_memory_gib)
