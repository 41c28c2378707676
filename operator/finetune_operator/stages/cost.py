"""What a run has cost, and whether its budget allows it to go on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal, InvalidOperation

from finetune_operator.api.economics import Budget
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.api.settings import Settings
from finetune_operator.stages.accelerator import accelerator, gpu_price
from finetune_operator.stages.amounts import gpus
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.hold import held, seconds
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.reading import mapping, text
from finetune_operator.stages.summaries import money

_REMEDY = "raise spec.budget.limit, which may grow, and the run goes on"


def priced(job: FineTuneJob, settings: Settings, attempt: Attempt) -> Attempt:
    """An attempt about to be recorded, with its GPUs and today's price: a later price changes no past."""
    price = gpu_price(job, settings)
    update = {
        "gpus": gpus(job, attempt.stage) or None,
        "price_per_hour": None if price is None else str(price),
    }
    return attempt.model_copy(update=update) if update["gpus"] else attempt


def account(observed: Observed, draft: Draft) -> None:
    """Bring the time that attempts held GPUs up to what their pods show."""
    for attempt in draft.attempts:
        goes_on = attempt.state in ("Recorded", "Running") or attempt.held_since is not None
        if attempt.gpus and goes_on:
            draft.record(held(attempt, observed.pods.get(attempt.job, ()), draft.now))


def show_spent(draft: Draft, settings: Settings) -> None:
    """Write what the attempts cost so far into `status.cost`."""
    amount = spent(draft.attempts, draft.now)
    kind = accelerator(draft.job, settings)
    if amount is not None:
        known = text(draft.status, "cost", "currency") or (kind.currency if kind is not None else None)
        draft.merge("cost", {"spent": money(amount), "currency": known})


def spent(attempts: Iterable[Attempt], now: datetime) -> Decimal | None:
    """The sum over the attempts of time x GPUs x price; None while none of them has a price."""
    costs = [cost for attempt in attempts if (cost := _cost(attempt, now)) is not None]
    return sum(costs, Decimal(0)) if costs else None


def excess(draft: Draft) -> str | None:
    """Why the budget lets no GPU work, in a sentence with the numbers and the remedy; None when it does."""
    budget = draft.job.spec.budget
    if budget is None:
        return None
    limit = Decimal(budget.limit)
    amount = spent(draft.attempts, draft.now) or Decimal(0)
    if amount >= limit:
        return (
            f"The run has cost {money(amount)} {budget.currency} and spec.budget.limit is {budget.limit}; "
            f"its GPUs are given back, training after a checkpoint: {_REMEDY}."
        )
    return _too_expensive(draft, budget, limit)


def _too_expensive(draft: Draft, budget: Budget, limit: Decimal) -> str | None:
    expected = mapping(draft.status, "cost")
    estimate = _decimal(text(expected, "estimate"))
    if estimate is None or estimate <= limit:
        return None
    bounds = " to ".join(text(expected, key) for key in ("low", "high") if text(expected, key))
    return (
        f"The run is expected to cost {text(expected, 'estimate')} {budget.currency}"
        f"{f' ({bounds})' if bounds else ''} and spec.budget.limit is {budget.limit}; no GPU is asked for "
        f"until that changes: {_REMEDY}."
    )


def _cost(attempt: Attempt, now: datetime) -> Decimal | None:
    price = _decimal(attempt.price_per_hour or "")
    if not attempt.gpus or price is None:
        return None
    return seconds(attempt, now) * attempt.gpus * price / 3600


def _decimal(value: str) -> Decimal | None:
    try:
        found = Decimal(value)
    except InvalidOperation:
        return None
    return found if found.is_finite() else None
