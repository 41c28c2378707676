"""Money and time of a run: what holds GPUs and for how long, what that costs, and what a budget allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from statistics import median

from finetune_operator.api.economics import Budget
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, Cost, FineTuneJobStatus, StageName
from finetune_operator.contracts.job import JobCalibration
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import items, moment, placed_at, text, unfinished
from finetune_operator.core.times import format_time, moment_of
from finetune_operator.render.resources import accelerator, gpus
from finetune_operator.stages.summaries import as_number, in_money


def priced(job: FineTuneJob, settings: Settings, attempt: Attempt) -> Attempt:
    """An attempt about to be recorded, with its GPUs and today's price: a later price changes no past."""
    held_gpus = gpus(job, attempt.stage)
    if not held_gpus:
        return attempt
    found = accelerator(job, settings)
    price = None if found is None else found.price_per_hour
    return attempt.model_copy(update={"gpus": held_gpus, "price_per_hour": price})


def pays_judge(job: FineTuneJob, stage: StageName) -> bool:
    """Whether a stage asks a judge whose prices are known, wherever its pods run."""
    judge = job.spec.evaluation.judge if job.spec.evaluation is not None else None
    priced = judge is not None and judge.price_per_million_input_tokens is not None
    return priced and stage in ("baseline", "evaluate")


def accounted(
    attempts: Iterable[Attempt], pods: Mapping[str, Sequence[Manifest]], now: datetime
) -> list[Attempt]:
    """The attempts whose time on GPUs differs from what their pods show, brought up to it."""
    after = [(a, held(a, pods.get(a.job, ()), now)) for a in attempts if a.gpus and _may_hold(a)]
    return [new for before, new in after if new != before]


def _may_hold(attempt: Attempt) -> bool:
    return attempt.state in ("Recorded", "Running") or attempt.held_since is not None


def cost_so_far(
    job: FineTuneJob, settings: Settings, status: FineTuneJobStatus, now: datetime
) -> Cost | None:
    """What the attempts cost so far, for `status.cost`; None while nothing has a price."""
    amount, gpu = spent(status.attempts, now), accelerator(job, settings)
    if amount is None:
        return None
    known = status.cost.currency if status.cost is not None else None
    of_gpu = gpu.currency if gpu is not None else None
    limited = job.spec.budget.currency if job.spec.budget is not None else None
    return Cost(spent=in_money(amount), currency=known or of_gpu or limited)


def spent(attempts: Iterable[Attempt], now: datetime) -> Decimal | None:
    """The sum over the attempts of time x GPUs x price and of judges; None while nothing has a price."""
    costs = [cost for attempt in attempts if (cost := _cost(attempt, now)) is not None]
    return sum(costs, Decimal(0)) if costs else None


def amount_of(value: str | None) -> Decimal | None:
    """The decimal number that a status or a setting holds as a string; None when there is no such number."""
    try:
        found = Decimal(value or "")
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def judged(attempt: Attempt, told: str | None) -> Attempt:
    """The attempt with what its judge cost so far; what was told before stays where nothing is told.

    An attempt that re-emits a result tells of what another one has spent.
    """
    costs = [cost for cost in (amount_of(attempt.judge_cost), amount_of(told)) if cost is not None]
    if not costs or attempt.reemits:
        return attempt
    return attempt.model_copy(update={"judge_cost": f"{max(costs):f}"})


def _cost(attempt: Attempt, now: datetime) -> Decimal | None:
    parts = [part for part in (_of_gpus(attempt, now), amount_of(attempt.judge_cost)) if part is not None]
    return sum(parts, Decimal(0)) if parts else None


def _of_gpus(attempt: Attempt, now: datetime) -> Decimal | None:
    price = amount_of(attempt.price_per_hour)
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
    since = moment_of(attempt.held_since)
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
    since = moment_of(attempt.held_since)
    running = 0 if since is None else max(0, int((now - since).total_seconds()) // 60 * 60)
    return (attempt.held_seconds or 0) + running


def _closed(attempt: Attempt, since: datetime, end: datetime) -> Attempt:
    passed = (attempt.held_seconds or 0) + max(0, round((end - since).total_seconds()))
    return attempt.model_copy(update={"held_since": None, "held_seconds": passed})


def _begin(pods: Sequence[Manifest], now: datetime) -> datetime:
    return min((start for pod in pods if (start := _held_from(pod)) is not None), default=now)


def _held_from(pod: Manifest) -> datetime | None:
    return (
        placed_at(pod) or moment(pod, "status", "startTime") or moment(pod, "metadata", "creationTimestamp")
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
    """Why the budget of a run cannot be kept, in a sentence that names the field or the setting to change.

    Without GPUs it limits what the judge costs, whose prices are in its currency.
    """
    budget, found = job.spec.budget, accelerator(job, settings)
    if budget is None or not job.spec.resources.gpus_per_node:
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


def excess(job: FineTuneJob, status: FineTuneJobStatus, now: datetime) -> str | None:
    """Why the budget lets nothing work that costs, in a sentence with numbers and remedy; None if it does."""
    budget = job.spec.budget
    if budget is None:
        return None
    limit = Decimal(budget.limit)
    amount = spent(status.attempts, now) or Decimal(0)
    if amount >= limit:
        return (
            f"The run has cost {in_money(amount)} {budget.currency} and spec.budget.limit is {budget.limit}; "
            f"its pods are stopped, training after a checkpoint: {_REMEDY}."
        )
    return _too_expensive(status.cost, budget, limit)


def _too_expensive(expected: Cost | None, budget: Budget, limit: Decimal) -> str | None:
    estimate = amount_of(expected.estimate) if expected is not None else None
    if expected is None or estimate is None or estimate <= limit:
        return None
    bounds = " to ".join(bound for bound in (expected.low, expected.high) if bound)
    return (
        f"The run is expected to cost {expected.estimate} {budget.currency}"
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
    value = as_number(text(run, "status", "cost", "mfu"))
    if value is not None and 0 < value <= 1:
        yield value
