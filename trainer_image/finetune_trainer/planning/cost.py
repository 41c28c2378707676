"""What a run costs, and when it pays back (R48 to R53). Prices are the administrator's: none is built in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_trainer.planning.time import Band

Budget = Literal["Within", "MayExceed", "Exceeds"]

_DAYS_PER_MONTH = 30
# Below this many calls per day an API is usually cheaper than GPUs of one's own (R53).
SELF_HOST_CALLS = 1_000_000


@dataclass(frozen=True)
class Price:
    """What one GPU of a type costs per hour; `spot_per_hour` None: the type is not offered as spot."""

    per_hour: float
    currency: str
    spot_per_hour: float | None = None

    def rate(self, *, spot: bool) -> float:
        """Per GPU and hour; a spot job of a type without a spot price counts the full price."""
        return self.spot_per_hour if spot and self.spot_per_hour is not None else self.per_hour


@dataclass(frozen=True)
class Attempt:
    """One life of a stage's pods: how long they held their GPUs, at which rate, and what of it was lost.

    `lost_seconds` is the work since the last checkpoint when the attempt ended early, part of `seconds`.
    """

    seconds: float
    gpus: int
    rate: float
    lost_seconds: float = 0


@dataclass(frozen=True)
class Spent:
    """What a run has cost so far; `lost` is the part of `gpus` that had to be done again."""

    gpus: float
    judge: float
    lost: float

    @property
    def total(self) -> float:
        """GPU time of all stages and attempts, and the judge's tokens."""
        return self.gpus + self.judge


@dataclass(frozen=True)
class Serving:
    """Serving a model on GPUs of one's own: `rate` per replica and hour, costs per call in one currency."""

    replicas: int
    rate: float
    api_cost_per_call: float
    own_cost_per_call: float = 0


def training_cost(hours: Band, gpus: int, rate: float, judge: float = 0) -> Band:
    """The estimate before a run: GPU hours at the rate, and the judge's tokens (R48, R49)."""
    gpu = hours.scaled(gpus * rate)
    return Band(gpu.low + judge, gpu.expected + judge, gpu.high + judge)


def judge_cost(tokens: int, price_per_million: float) -> float:
    """What a judge model's tokens cost."""
    return tokens * price_per_million / 1e6


def spent(attempts: Sequence[Attempt], judge: float = 0) -> Spent:
    """The cost of all attempts of all stages, lost work included: it was paid for."""
    return Spent(
        gpus=sum(attempt.seconds * attempt.gpus * attempt.rate for attempt in attempts) / 3600,
        judge=judge,
        lost=sum(attempt.lost_seconds * attempt.gpus * attempt.rate for attempt in attempts) / 3600,
    )


def over_budget(estimate: Band, limit: float) -> Budget:
    """Whether a run may start: `Exceeds` is refused, `MayExceed` is a warning.

    The expected cost decides. The high bound is the expected one times 1.6 before the first run: refusing by
    it would turn away jobs that most likely cost 60 % of their limit, and while a run goes on, it is stopped
    with a checkpoint at 100 % of the limit anyway, so a wrong estimate cannot overspend.
    """
    if estimate.expected > limit:
        return "Exceeds"
    return "MayExceed" if estimate.high > limit else "Within"


def saved_per_month(
    calls: int, removed_prompt_tokens: int, price_per_million: float, added_output_tokens: int = 0
) -> float:
    """What shorter prompts save in a month (R50, R51); outputs that grew count against it at the same price.

    1M calls without 3,000 tokens of prompt are 3 billion tokens: 1,500 to 4,500 at 0.50 to 1.50 per million.
    """
    return calls * (removed_prompt_tokens - added_output_tokens) * price_per_million / 1e6


def break_even_days(cost: float, saved: float, extra_serving: float = 0) -> float | None:
    """Days until a month's saving less what serving adds has paid back a run of `cost` (R52); None: never.

    50 against 50 to 150 a day: 1.0 to 0.3 days.
    """
    daily = (saved - extra_serving) / _DAYS_PER_MONTH
    return cost / daily if daily > 0 else None


def break_even_text(cost: float, saved: float, extra_serving: float = 0) -> str:
    """The sentence for status and report."""
    days = break_even_days(cost, saved, extra_serving)
    if days is None:
        return "The run never pays back: serving it costs at least what it saves."
    return f"The run pays back after {days:.1f} days."


def self_host_crossover(serving: Serving) -> float | None:
    """Calls per day from which GPUs of one's own are cheaper than an API (R53); None: never.

    replicas * 24 h * rate / (what a call costs at the API - what it costs on top here).
    """
    margin = serving.api_cost_per_call - serving.own_cost_per_call
    return serving.replicas * 24 * serving.rate / margin if margin > 0 else None
