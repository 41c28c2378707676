"""How long a run takes, what it costs and when it pays back (R48 to R52).

Tokens, operations per token, and the share of the peak that such runs reach give hours; prices are the
administrator's, none is built in.

MFU counts the operations that the result needs, recomputation and padding not among them (Chowdhery et al.
2022, PaLM, appendix B), so gradient checkpointing lowers it.
"""

from dataclasses import dataclass

from finetune_trainer.base.shape import ModelShape
from finetune_trainer.contracts import GradientCheckpointing, Method, Offload
from finetune_trainer.planning.lengths import Lengths
from finetune_trainer.planning.memory import Setup

# Without gradient checkpointing; with it the priors of cost-and-memory.md 6.1 come out: LoRA .27, QLoRA .25,
# Full .30.
_MFU: dict[Method, float] = {"LoRA": 0.40, "QLoRA": 0.37, "Full": 0.40}
# The part of the arithmetic that gradient checkpointing does again (training.md 3.3): LoRA 2N of 4N, Full 2N
# of 6N. Selective spares attention's, a twentieth of it in rows of 2,000 tokens of an 8B model.
_FORWARD: dict[Method, float] = {"LoRA": 2 / 4, "QLoRA": 2 / 4, "Full": 2 / 6}
_REPEATED: dict[GradientCheckpointing, float] = {"Disabled": 0.0, "Selective": 0.95, "Enabled": 1.0}
# Stages 1 and 2 move what plain data parallelism moves; stage 3 gathers the weights too. Its speed beside
# ZeRO-2: .44 measured with a 1B model on one H200, where its hooks weigh most, .75 proposed for several nodes
# (cost-and-memory.md 6.1); this is the middle of the two, and both are within the band.
_ZERO3 = 0.57
# The optimizer's step on the host waits for PCIe and for the host's memory; with ZeRO-3 this gives .29 of the
# speed of ZeRO-2, as that H200 did with 16 cores. Offloaded weights cross PCIe in every micro-batch, twice: a
# guess.
_OFFLOAD: dict[Offload, float] = {"None": 1.0, "Optimizer": 0.5, "All": 0.25}
# Reading a weight matrix takes as long as multiplying it with this many tokens: an H100 does 989 TFLOP/s and
# reads 3.35 TB/s, so smaller micro-batches wait for memory (Williams et al. 2009, the roofline model).
_BALANCE_TOKENS = 300
# Sharded gradients are reduced in every micro-batch: 2P bytes at 300 GB/s (NVLink, assumed) take as long as
# computing this many tokens with 6P operations each at 400 TFLOP/s.
_REDUCED_TOKENS = 450

# A factor each way around an expected time. Priors: 25 to 64 % of the peak where 40 % are expected spans what
# is published for 7B and 8B models; the packed runs of benchmarks/results/gpu_training.json lie within, too.
# Calibrated: rows and micro-batches differ from run to run.
PRIOR_SPREAD = 1.6
CALIBRATED_SPREAD = 1.2
_FEWEST_RUNS = 3

_START_SECONDS = 60.0
_LOADED_BYTES_PER_SECOND = 1e9
_ENGINE_SECONDS = 180.0
_PREFILL_MFU, _DECODE_MFU = 0.40, 0.05
_DAYS_PER_MONTH = 30


@dataclass(frozen=True)
class Band:
    """An expected value between a low and a high one."""

    low: float
    expected: float
    high: float

    def scaled(self, factor: float) -> "Band":
        """All three values times a factor of at least 0."""
        return Band(self.low * factor, self.expected * factor, self.high * factor)


@dataclass(frozen=True)
class Efficiency:
    """The share of the peak that a run is expected to reach, a factor each way, and where both come from."""

    mfu: float
    spread: float
    source: str


@dataclass(frozen=True)
class TimedRun:
    """What decides the arithmetic of a run: model, method, rows of one epoch, epochs, GPUs and their peak."""

    shape: ModelShape
    method: Method
    lengths: Lengths
    epochs: int
    gpus: int
    peak_tflops: float


@dataclass(frozen=True)
class TimeEstimate:
    """Tokens of all epochs, operations per token and hours of training with start-up and evaluation."""

    tokens: int
    flops_per_token: float
    hours: Band
    source: str


def flops_per_token(shape: ModelShape, method: Method, attended: float) -> float:
    """Operations that a token needs in a row of `attended` tokens, without recomputation.

    training.md 3.3: Full 6N + 6*L*d*l, LoRA and QLoRA 4N + 6*L*d*l (the base needs no weight gradients), with
    d = heads * head_dim and causal attention.
    """
    per_weight = 6 if method == "Full" else 4
    attention = 6 * shape.layers * shape.heads * shape.head_dim * attended
    return per_weight * shape.product_parameters + attention


def prior_mfu(setup: Setup) -> float:
    """The MFU to expect before anything was measured (cost-and-memory.md 6.1, and the factors above)."""
    gathering = _ZERO3 if setup.zero_stage == 3 else 1.0
    recompute = 1 + _FORWARD[setup.method] * _REPEATED[setup.gradient_checkpointing]
    # An adapter has few gradients to reduce.
    reduces = setup.method == "Full" and setup.zero_stage and setup.gpus > 1
    waiting = _BALANCE_TOKENS + (_REDUCED_TOKENS if reduces else 0)
    filled = setup.tokens / (setup.tokens + waiting)
    return _MFU[setup.method] / recompute * gathering * _OFFLOAD[setup.offload] * filled


def prior(setup: Setup) -> Efficiency:
    """What to expect where no finished run is known."""
    return Efficiency(prior_mfu(setup), PRIOR_SPREAD, "published runs (no finished run is known here)")


def calibrated(median: float, runs: int) -> Efficiency:
    """What to expect from the `median` MFU of finished `runs` with this GPU type and method.

    Fewer than three runs do not show how much they differ, so with them the band stays the prior's.
    """
    spread = CALIBRATED_SPREAD if runs >= _FEWEST_RUNS else PRIOR_SPREAD
    return Efficiency(median, spread, f"{runs} finished {'run' if runs == 1 else 'runs'} here")


def tokens_per_second(
    shape: ModelShape, method: Method, attended: float, gpus: int, peak_tflops: float, mfu: float
) -> float:
    """Real tokens per second over all GPUs."""
    return gpus * peak_tflops * 1e12 * mfu / flops_per_token(shape, method, attended)


def mfu(
    tokens_per_second: float,
    shape: ModelShape,
    method: Method,
    attended: float,
    gpus: int,
    peak_tflops: float,
) -> float:
    """The share of the peak that a finished run reached, to record for calibration."""
    return tokens_per_second * flops_per_token(shape, method, attended) / (gpus * peak_tflops * 1e12)


def estimate(run: TimedRun, efficiency: Efficiency, extra_seconds: float = 0) -> TimeEstimate:
    """Hours on GPUs; `extra_seconds` (start-up, evaluation) come on top and widen by the same factor."""
    attended, tokens = run.lengths.attended, run.epochs * run.lengths.tokens
    speed = tokens_per_second(run.shape, run.method, attended, run.gpus, run.peak_tflops, efficiency.mfu)
    return TimeEstimate(
        tokens=tokens,
        flops_per_token=flops_per_token(run.shape, run.method, attended),
        hours=_around((tokens / speed + extra_seconds) / 3600, efficiency.spread),
        source=efficiency.source,
    )


def startup_seconds(shape: ModelShape) -> float:
    """Until the first step: a minute of imports and NCCL, and the weights read at 1 GB/s (a prior)."""
    return _START_SECONDS + 2 * shape.parameters / _LOADED_BYTES_PER_SECOND


def evaluation_seconds(
    shape: ModelShape, rows: int, prompt_tokens: int, output_tokens: int, peak_tflops: float
) -> float:
    """Scoring a hold-out once on one GPU; tokens are sums over all rows (a prior).

    2N operations per token; prompts are as fast as training, answers wait for memory. The engine's start and
    its load come first.
    """
    operations = 2 * shape.product_parameters * (prompt_tokens / _PREFILL_MFU + output_tokens / _DECODE_MFU)
    return (_ENGINE_SECONDS + operations / (peak_tflops * 1e12)) if rows else 0.0


def _around(expected: float, factor: float) -> Band:
    return Band(expected / factor, expected, expected * factor)


def training_cost(hours: Band, gpus: int, rate: float) -> Band:
    """The estimate before a run: hours of all GPUs at the rate of one (R48, R49)."""
    return hours.scaled(gpus * rate)


def saved_per_month(calls: int, removed_prompt_tokens: int, price_per_million: float) -> float:
    """What shorter prompts save in a month (R50, R51).

    1M calls without 3,000 tokens of prompt are 3 billion tokens: 1,500 to 4,500 at 0.50 to 1.50 per million.
    """
    return calls * removed_prompt_tokens * price_per_million / 1e6


def break_even_days(cost: float, saved: float) -> float | None:
    """Days until a month's saving has paid back a run of `cost` (R52); None: never.

    50 against 50 to 150 a day: 1.0 to 0.3 days.
    """
    return cost * _DAYS_PER_MONTH / saved if saved > 0 else None
