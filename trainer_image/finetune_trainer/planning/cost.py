"""What a run costs, and when it pays back (R48 to R52). Prices are the administrator's: none is built in."""

from finetune_trainer.planning.time import Band

_DAYS_PER_MONTH = 30


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
