"""Training settings for what a job leaves out; every choice is reported in status."""

import math
from dataclasses import dataclass
from typing import Any

from finetune_trainer.contracts import LoraSpec, Method, Spec, TrainingSpec
from finetune_trainer.errors import UserError
from finetune_trainer.planning.lengths import Lengths

# Three epochs: OpenAI's rule for small sets of examples (data rule 30).
EPOCHS = 3
# TRL's default for full fine-tuning; LoRA takes ten times as much, fifteen in runs under 100 steps
# (LoRA Without Regret: the best LoRA rate is about ten times the full one, higher for short runs).
FULL_RATE = 2e-5
LORA_FACTOR = 10
SHORT_LORA_FACTOR = 15
SHORT_RUN_STEPS = 100
# Rows of a step: so many that a GPU gets this many tokens, with fewer it waits (planning/time.py) ...
_TOKENS_PER_GPU = 4096
_LEAST_BATCH = 8
# ... but no more than these: LoRA tolerates large batches worse than full training does (same source) ...
_MOST_BATCH: dict[Method, int] = {"LoRA": 32, "QLoRA": 32, "Full": 128}
# ... and few enough that an epoch has some steps to learn in.
_STEPS_PER_EPOCH = 25
SEED = 17
# Rank 16 to 32 serves hundreds to thousands of rows; alpha 32 keeps the best rate independent of the rank.
RANK = 16
ALPHA = 32
_LENGTH_STEP = 8


@dataclass(frozen=True)
class Plan:
    """The settings in force."""

    epochs: int
    learning_rate: float
    effective_batch_size: int
    max_length: int
    seed: int
    steps: int
    rank: int | None
    alpha: int | None
    rank_stabilized: bool
    target_modules: tuple[str, ...]

    def training(self) -> dict[str, Any]:
        """The `training` part of prepare's summary."""
        return {
            "epochs": self.epochs,
            "learningRate": self.learning_rate,
            "effectiveBatchSize": self.effective_batch_size,
            "maxLength": self.max_length,
            "seed": self.seed,
            "steps": self.steps,
        }

    def lora(self) -> dict[str, Any] | None:
        """The `lora` part of prepare's summary; None for method Full."""
        if self.rank is None:
            return None
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "rankStabilized": self.rank_stabilized,
            "targetModules": list(self.target_modules),
        }


def make_plan(spec: Spec, rows: Lengths, positions: int, targets: tuple[str, ...]) -> Plan:
    """Fill in what the spec leaves out; `positions` are the model's, `targets` the adapted layers."""
    given, lora = spec.training or TrainingSpec(), spec.lora or LoraSpec()
    epochs = given.epochs or EPOCHS
    batch = effective_batch(spec, rows)
    steps = math.ceil(rows.rows / batch) * epochs
    rate = float(given.learning_rate) if given.learning_rate else default_rate(spec.method, steps)
    return Plan(
        epochs=epochs,
        learning_rate=rate,
        effective_batch_size=batch,
        max_length=min(given.max_length or _round_up(rows.longest, _LENGTH_STEP), positions),
        seed=SEED if given.seed is None else given.seed,
        steps=steps,
        rank=(lora.rank or RANK) if spec.trains_adapter else None,
        alpha=(lora.alpha or ALPHA) if spec.trains_adapter else None,
        rank_stabilized=lora.rank_stabilized or False,
        target_modules=targets,
    )


def effective_batch(spec: Spec, rows: Lengths) -> int:
    """The rows per optimizer step, a multiple of the processes; UserError when the job's number is none.

    On GPUs the default grows until each gets enough tokens to be busy; on a CPU it stays the least.
    """
    given, processes = spec.training and spec.training.effective_batch_size, spec.resources.processes
    if given:
        return processes * share_of_batch(given, processes)
    batch = _LEAST_BATCH
    if spec.resources.gpus_per_node and rows.tokens:
        busy = math.ceil(processes * _TOKENS_PER_GPU * rows.rows / rows.tokens)
        batch = max(batch, min(busy, _MOST_BATCH[spec.method], rows.rows // _STEPS_PER_EPOCH))
    return _round_up(batch, processes)


def share_of_batch(rows: int, processes: int) -> int:
    """The rows of a step that one process gets; UserError when they cannot be shared evenly."""
    if rows % processes:
        text = f"training.effectiveBatchSize is {rows} for {processes} processes"
        raise UserError(f"{text}; make it a multiple of {processes}, such as {_round_up(rows, processes)}.")
    return rows // processes


def default_rate(method: str, steps: int) -> float:
    """The learning rate for a method and a length of run."""
    if method == "Full":
        return FULL_RATE
    return round(FULL_RATE * (SHORT_LORA_FACTOR if steps < SHORT_RUN_STEPS else LORA_FACTOR), 10)


def length_limit(spec: Spec, positions: int) -> int:
    """The most tokens a row may have: what the job says, at most what the model was made for."""
    given = spec.training.max_length if spec.training else None
    return min(given or positions, positions)


def _round_up(number: int, step: int) -> int:
    return math.ceil(number / step) * step
