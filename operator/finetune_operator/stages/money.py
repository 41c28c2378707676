"""Money and time of a run: what holds GPUs and for how long, what that costs, and what a budget allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from statistics import median

from finetune_operator.api.economics import Budget
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.contracts.documents import JobCalibration
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import condition, items, mapping, moment, number, text, unfinished
from finetune_operator.core.times import format_time
from finetune_operator.render.resources import accelerator, gpus
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.summaries import in_money


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
        draft.merge("cost", {"spent": in_money(amount), "currency": known})


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


def held(attempt: Attempt, pods: Sequence[Manifest], now: datetime) -> Attempt:
    """The attempt with `held_since` and `held_seconds` brought up to what its pods show.

    All GPUs of a gang count from its first pod's placing to its last pod's end. A suspended attempt has no
    pods and holds nothing.
    """
    placed = [pod for pod in pods if text(pod, "spec", "nodeName")]
    running = unfinished(placed)
    since = moment({"at": attempt.held_since}, "at")
    if since is not None:
        return attempt if running else _closed(attempt, since, _end(placed, since, now))
    if running:
        return attempt.model_copy(update={"held_since": format_time(_begin(running, now))})
    if placed and attempt.held_seconds is None:  # they came and went unseen
        begun = _begin(placed, now)
        return _closed(attempt, begun, _end(placed, begun, now))
    return attempt


def seconds(attempt: Attempt, now: datetime) -> int:
    """How long it has held its GPUs; what runs counts in whole minutes, so that a status is not written with
    every look at the clock.
    """
    since = moment({"at": attempt.held_since}, "at")
    running = 0 if since is None else max(0, int((now - since).total_seconds()) // 60 * 60)
    return (attempt.held_seconds or 0) + running


def _closed(attempt: Attempt, since: datetime, end: datetime) -> Attempt:
    passed = (attempt.held_seconds or 0) + max(0, round((end - since).total_seconds()))
    return attempt.model_copy(update={"held_since": None, "held_seconds": passed})


def _begin(pods: Sequence[Manifest], now: datetime) -> datetime:
    return min((start for pod in pods if (start := _placed_at(pod)) is not None), default=now)


def _placed_at(pod: Manifest) -> datetime | None:
    return (
        moment(condition(pod, "PodScheduled"), "lastTransitionTime")
        or moment(pod, "status", "startTime")
        or moment(pod, "metadata", "creationTimestamp")
    )


def _end(pods: Sequence[Manifest], since: datetime, now: datetime) -> datetime:
    """When the last container ended; now, when no pod is left that tells."""
    return max((end for pod in pods for end in _ends(pod) if since <= end <= now), default=now)


def _ends(pod: Manifest) -> Iterator[datetime]:
    for container in items(pod, "status", "containerStatuses"):
        ended = moment(container, "state", "terminated", "finishedAt")
        if ended is not None:
            yield ended


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
            f"The run has cost {in_money(amount)} {budget.currency} and spec.budget.limit is {budget.limit}; "
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


def calibration(job: FineTuneJob, runs: Iterable[Manifest]) -> JobCalibration | None:
    """The median MFU that finished runs with the same gpuType and method measured; None without any."""
    found = list(_measured(job, runs))
    return JobCalibration(mfu=median(found), runs=len(found)) if found else None


def _measured(job: FineTuneJob, runs: Iterable[Manifest]) -> Iterator[float]:
    for run in runs:
        alike = text(run, "spec", "resources", "gpuType") == job.spec.resources.gpu_type
        asked = text(run, "spec", "method") or "LoRA"
        method = text(run, "status", "resolved", "method") or asked  # a fallback may have been in force
        if alike and method == job.spec.method and text(run, "status", "completionTime"):
            yield from _mfu(run)


def _mfu(run: Manifest) -> Iterator[float]:
    try:
        value = number({"mfu": float(text(run, "status", "cost", "mfu"))}, "mfu")
    except ValueError:
        return
    if value is not None and 0 < value <= 1:
        yield value
