"""Whether the budget of a run can be kept, and whether it lets GPUs work."""

from __future__ import annotations

from decimal import Decimal

from finetune_operator.api.economics import Budget
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.settings import Settings
from finetune_operator.stages.accelerator import accelerator
from finetune_operator.stages.cost import amount_of, spent
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.reading import mapping, text
from finetune_operator.stages.summaries import money

_REMEDY = "raise spec.budget.limit, which may grow, and the run goes on"


def price_problem(job: FineTuneJob, settings: Settings) -> str | None:
    """Why the budget of a run cannot be kept, in a sentence that names the field or the setting to change."""
    budget, found = job.spec.budget, accelerator(job, settings)
    if budget is None:
        return None
    if found is None:
        return (
            "spec.budget needs to know which GPU it pays for; set spec.resources.gpuType in a new "
            "FineTuneJob."
        )
    setting = f"gpuTypes.{found.name}.{'spotPricePerHour' if found.spot else 'pricePerHour'}"
    if found.price_per_hour is None:
        return (
            f"spec.budget needs the price of {found.name}, which the administrator has not set; ask for the "
            f"setting {setting} of the operator's chart, or create a FineTuneJob without spec.budget."
        )
    if found.currency != budget.currency:
        return (
            f"spec.budget.currency is {budget.currency}, but {setting} of the operator's chart is in "
            f"{found.currency}; give the budget in {found.currency} in a new FineTuneJob."
        )
    return None


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
    estimate = amount_of(text(expected, "estimate"))
    if estimate is None or estimate <= limit:
        return None
    bounds = " to ".join(text(expected, key) for key in ("low", "high") if text(expected, key))
    return (
        f"The run is expected to cost {text(expected, 'estimate')} {budget.currency}"
        f"{f' ({bounds})' if bounds else ''} and spec.budget.limit is {budget.limit}; no GPU is asked for "
        f"until that changes: {_REMEDY}."
    )
