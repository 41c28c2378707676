"""Training settings for what a job leaves out; every choice is reported in status."""

import math
from dataclasses import dataclass
from typing import Any

from finetune_trainer.contracts import LoraSpec, Spec, TrainingSpec
from finetune_trainer.errors import UserError

# Three epochs: OpenAI's rule for small sets of examples (data rule 30).
EPOCHS = 3
# TRL's default for full fine-tuning; LoRA takes ten times as much, fifteen in runs under 100 steps
# (LoRA Without Regret: the best LoRA rate is about ten times the full one, higher for short runs).
FULL_RATE = 2e-5
LORA_FACTOR = 10
SHORT_LORA_FACTOR = 15
SHORT_RUN_STEPS = 100
# LoRA tolerates large batches worse than full training does: stay below 32 (same source).
BATCH = 8
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

    def lora(self) -> dict[str, int] | None:
        """The `lora` part of prepare's summary; None for method Full."""
        return None if self.rank is None or self.alpha is None else {"rank": self.rank, "alpha": self.alpha}


def make_plan(spec: Spec, rows: int, longest: int, positions: int) -> Plan:
    """Fill in what the spec leaves out; `longest` row and the model's `positions` are in tokens."""
    given = spec.training or TrainingSpec()
    epochs = given.epochs or EPOCHS
    batch = effective_batch(given.effective_batch_size, spec.resources.processes)
    steps = math.ceil(rows / batch) * epochs
    rank, alpha = _lora(spec)
    rate = float(given.learning_rate) if given.learning_rate else default_rate(spec.method, steps)
    return Plan(
        epochs=epochs,
        learning_rate=rate,
        effective_batch_size=batch,
        max_length=given.max_length or min(_round_up(longest, _LENGTH_STEP), positions),
        seed=SEED if given.seed is None else given.seed,
        steps=steps,
        rank=rank,
        alpha=alpha,
    )


def effective_batch(given: int | None, processes: int) -> int:
    """The rows per optimizer step: a multiple of the processes; UserError when the given number is none."""
    if given is None:
        return _round_up(BATCH, processes)
    if given % processes:
        text = f"training.effectiveBatchSize is {given} for {processes} processes"
        raise UserError(f"{text}; make it a multiple of {processes}, such as {_round_up(given, processes)}.")
    return given


def default_rate(method: str, steps: int) -> float:
    """The learning rate for a method and a length of run."""
    if method == "Full":
        return FULL_RATE
    return round(FULL_RATE * (SHORT_LORA_FACTOR if steps < SHORT_RUN_STEPS else LORA_FACTOR), 10)


def length_limit(spec: Spec, positions: int) -> int:
    """The most tokens a row may have: what the job says, at most what the model was made for."""
    given = spec.training.max_length if spec.training else None
    return min(given or positions, positions)


def _lora(spec: Spec) -> tuple[int | None, int | None]:
    if spec.method == "Full":
        return None, None
    given = spec.lora or LoraSpec()
    return given.rank or RANK, given.alpha or ALPHA


def _round_up(number: int, step: int) -> int:
    return math.ceil(number / step) * step
