"""How long a training takes and what it costs, before it starts.

Operations per token: 2N forward, 2N backward for the inputs' gradients and 2N for the weights'. A frozen base
needs no weight gradients, so LoRA and QLoRA take 4N, Full 6N; causal attention adds 6 * layers * width * row
length. Recomputed activations are not counted: they lower the share of the peak (MFU, arXiv 2204.02311).
"""

from dataclasses import dataclass
from typing import Any

from finetune_trainer.planning.memory import Setup
from finetune_trainer.planning.shape import ModelShape

# Shares of the peak that trainings reach, where no run of one's own has shown another. Measured on an H200
# with packed rows: 8B LoRA .37, .28 with recomputation, 1B Full .35, 1B LoRA .28 (benchmarks/README.md).
_MFU = {"LoRA": 0.40, "QLoRA": 0.25, "Full": 0.40}
_MFU_ZERO3 = 0.30
_BAND = 1.6  # the true time is between expected / 1.6 and expected * 1.6: wider than the spread measured
_START_HOURS = 5 / 60  # pulling the image, loading the model


@dataclass(frozen=True)
class Gpu:
    """A GPU's dense bf16 peak in TFLOP/s and the price of an hour (None: not known)."""

    peak_tflops: float
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Estimate:
    """Hours and cost of a training, expected and as a band; costs are None without a price."""

    tokens: int
    mfu: float
    hours: float
    hours_low: float
    hours_high: float
    gpus: int
    price_per_hour: float | None

    def to_json(self) -> dict[str, Any]:
        """The `estimate` of `plan --output json`."""
        return {
            "tokens": self.tokens,
            "mfu": round(self.mfu, 3),
            "hours": round(self.hours, 3),
            "hoursLow": round(self.hours_low, 3),
            "hoursHigh": round(self.hours_high, 3),
            "cost": self._cost(self.hours),
            "costLow": self._cost(self.hours_low),
            "costHigh": self._cost(self.hours_high),
        }

    def _cost(self, hours: float) -> float | None:
        return None if self.price_per_hour is None else round(hours * self.gpus * self.price_per_hour, 2)


def estimate(shape: ModelShape, setup: Setup, gpu: Gpu, tokens: int, row_tokens: int) -> Estimate:
    """The time for `tokens` over all epochs, in rows of `row_tokens` on average."""
    mfu = expected_mfu(setup)
    seconds = (
        tokens
        * flops_per_token(shape, setup.method, row_tokens)
        / (setup.gpus * gpu.peak_tflops * 1e12 * mfu)
    )
    hours = seconds / 3600
    low, high = (hours / _BAND + _START_HOURS, hours * _BAND + _START_HOURS)
    return Estimate(tokens, mfu, hours + _START_HOURS, low, high, setup.gpus, gpu.price_per_hour)


def flops_per_token(shape: ModelShape, method: str, row_tokens: int) -> float:
    """Operations that training one token needs, without recomputation."""
    attention = 6 * shape.layers * shape.heads * shape.head_dim * row_tokens
    return _passes(method) * shape.multiplied_parameters + attention


def expected_mfu(setup: Setup) -> float:
    """The share of the peak to expect of a layout."""
    usual, passes = _MFU[setup.method], _passes(setup.method)
    if setup.checkpointing:
        usual *= passes / (passes + 2)  # a second forward pass that counts for nothing
    return min(usual, _MFU_ZERO3) if setup.zero_stage == 3 else usual


def _passes(method: str) -> int:
    """Operations per parameter and token."""
    return 6 if method == "Full" else 4
