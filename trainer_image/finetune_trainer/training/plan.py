"""What a training run is told, and how a global batch is cut into micro-batches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["fp32", "bf16"]

# Measured on two cores: fewer, larger products lose less at the threads' barriers (217 tokens/s with one row
# of 220 tokens, 229 with two, 234 with four); beyond, padding and activations (1.3 MB per token) only grow.
CPU_MICRO_BATCH_TOKENS = 1024
CUDA_MICRO_BATCH_TOKENS = 16384
# Activations may take this share of the accelerator; weights, gradients and optimizer need the rest.
ACTIVATION_SHARE = 0.4


@dataclass(frozen=True)
class LoraPlan:
    """The adapter: rank and alpha of LoRA on all linear layers except the output head."""

    rank: int
    alpha: int


@dataclass(frozen=True)
class TrainPlan:
    """Everything that decides the result, apart from model and data; `lora` None trains all weights."""

    epochs: int
    learning_rate: float
    effective_batch_size: int
    seed: int
    lora: LoraPlan | None
    checkpoint_seconds: float = 300.0


@dataclass(frozen=True)
class Folders:
    """Where a run reads and writes; all processes see the same folders."""

    model: Path
    dataset: Path
    checkpoints: Path
    output: Path


@dataclass(frozen=True)
class Hardware:
    """What the processes run on; `memory_bytes` is one accelerator's, None on the CPU."""

    cuda: bool
    precision: Precision
    memory_bytes: int | None = None

    @property
    def micro_batch_tokens(self) -> int:
        """How many token slots a micro-batch may have."""
        return CUDA_MICRO_BATCH_TOKENS if self.cuda else CPU_MICRO_BATCH_TOKENS


def micro_batch_rows(rows_per_process: int, longest_row: int, token_limit: int) -> int:
    """The largest divisor of `rows_per_process` whose padded micro-batch fits the limit (at least 1)."""
    fitting = (n for n in range(rows_per_process, 0, -1) if rows_per_process % n == 0)
    return next((n for n in fitting if n * longest_row <= token_limit), 1)


def needs_checkpointing(
    micro_batch_tokens: int, layers: int, hidden: int, intermediate: int, memory_bytes: int | None
) -> bool:
    """Whether activations must be recomputed to fit; never on the CPU, where time is what is scarce.

    A decoder layer keeps about ten hidden-sized and four MLP-sized 16-bit tensors per token.
    """
    if memory_bytes is None:
        return False
    activations = 2 * micro_batch_tokens * layers * (10 * hidden + 4 * intermediate)
    return activations > ACTIVATION_SHARE * memory_bytes
