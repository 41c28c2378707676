"""The GPU of a run as the administrator's table describes it, and what its price lacks for a budget."""

from __future__ import annotations

from decimal import Decimal

from finetune_operator.api.contracts import JobAccelerator
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.settings import Settings


def accelerator(job: FineTuneJob, settings: Settings) -> JobAccelerator | None:
    """What job.json tells about the GPU; None on the CPU and when the spec names no gpuType."""
    name = job.spec.resources.gpu_type
    kind = settings.gpu_types.get(name or "")
    if name is None or kind is None or not job.spec.resources.gpus_per_node:
        return None
    price = kind.price(spot=spot(job))
    return JobAccelerator(
        name=name,
        memory_gib=kind.memory_gib,
        peak_tflops=kind.peak_tflops,
        price_per_hour=None if price is None else str(price),
        currency=kind.currency,
        spot=spot(job),
    )


def gpu_price(job: FineTuneJob, settings: Settings) -> Decimal | None:
    """Price of one GPU for an hour, None when the administrator has not said it."""
    found = accelerator(job, settings)
    return None if found is None or found.price_per_hour is None else Decimal(found.price_per_hour)


def spot(job: FineTuneJob) -> bool:
    """Whether the spot price counts."""
    return job.spec.resources.spot is True


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
