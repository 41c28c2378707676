"""What a run has cost: the time that its attempts held GPUs, times the price when they began."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal, InvalidOperation

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.api.settings import Settings
from finetune_operator.stages.accelerator import accelerator
from finetune_operator.stages.amounts import gpus
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.hold import held, seconds
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.reading import text
from finetune_operator.stages.summaries import money


def priced(job: FineTuneJob, settings: Settings, attempt: Attempt) -> Attempt:
    """An attempt about to be recorded, with its GPUs and today's price: a later price changes no past."""
    held_gpus = gpus(job, attempt.stage)
    if not held_gpus:
        return attempt
    found = accelerator(job, settings)
    price = None if found is None else found.price_per_hour
    return attempt.model_copy(update={"gpus": held_gpus, "price_per_hour": price})


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


def amount_of(value: str) -> Decimal | None:
    """A decimal number that a status or a setting holds as a string; None when it is none."""
    try:
        found = Decimal(value)
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _cost(attempt: Attempt, now: datetime) -> Decimal | None:
    price = amount_of(attempt.price_per_hour or "")
    if not attempt.gpus or price is None:
        return None
    return seconds(attempt, now) * attempt.gpus * price / 3600
