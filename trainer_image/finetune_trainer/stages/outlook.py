"""What prepare can say of memory, time and money before a GPU is asked for."""

from dataclasses import dataclass
from typing import Any

from finetune_trainer.base.shape import BaseModel
from finetune_trainer.contracts import AcceleratorSpec, CalibrationSpec, Job, Method
from finetune_trainer.planning.advice import Advice, Intent, advise
from finetune_trainer.planning.choose import MemoryPlan, NoFit, choose_method
from finetune_trainer.planning.defaults import Plan
from finetune_trainer.planning.layouts import Gpu, Workload, gpus_of, workload_of
from finetune_trainer.planning.lengths import Lengths
from finetune_trainer.planning.memory import checkpoint_bytes, in_gib
from finetune_trainer.planning.scoring import NoScoring, Scoring, Served, plan_scoring
from finetune_trainer.planning.time import (
    Band,
    Efficiency,
    TimedRun,
    TimeEstimate,
    break_even_days,
    calibrated,
    estimate,
    evaluation_seconds,
    prior,
    saved_per_month,
    startup_seconds,
    training_cost,
)
from finetune_trainer.report import document as report

_PER_MONTH = {"Yearly": 1 / 12, "Quarterly": 1 / 3, "Monthly": 1, "Weekly": 52 / 12, "Daily": 30}


@dataclass(frozen=True)
class Outlook:
    """The parts that are known: memory needs the GPU's size, time its peak too, cost a price as well.

    `method` is the one in force: the job's, or its fallback where memory forces that. `scoring` is None where
    nothing is scored on GPUs, or their size is not known.
    """

    method: Method
    checkpoint_bytes: int
    memory: MemoryPlan | NoFit | None
    scoring: Scoring | NoScoring | None
    time: TimeEstimate | None
    efficiency: Efficiency | None
    cost: Band | None
    savings: report.Savings | None
    advice: tuple[Advice, ...]


def look_ahead(job: Job, base: BaseModel, plan: Plan, lengths: Lengths, scored: int) -> Outlook:
    """The outlook of a job whose rows are tokenised; `lengths` are those of one epoch.

    `scored` are the answers of one model, on average of base and tuned model.

    Without GPUs nothing is planned, so nothing of it can refuse the base.
    """
    trained = base.trained(plan.rank, plan.target_modules)
    size = checkpoint_bytes(trained, full=plan.rank is None)
    if not job.spec.resources.gpus_per_node:
        advice = advise(_intent(job), None, None)
        return Outlook(job.spec.method, size, None, None, None, None, None, _savings(job, None), advice)
    gpu, work = job.accelerator, _workload(job, base, plan, lengths)
    known = gpu is not None and gpu.memory_gib is not None
    memory = choose_method(work, job.spec.fallback_method, gpus_of(job.other_gpus)) if known else None
    fitting = memory if isinstance(memory, MemoryPlan) else None
    method = fitting.layout.setup.method if fitting else job.spec.method
    efficiency = _efficiency(job, fitting)
    time = _time(job, work, method, plan, lengths, efficiency, scored) if efficiency else None
    cost = _cost(job, time) if time else None
    advice = advise(_intent(job), work, fitting)
    scoring = _scoring(job, base, plan, lengths, work) if known and job.scores_on_own_engine else None
    return Outlook(method, size, memory, scoring, time, efficiency, cost, _savings(job, cost), advice)


def summarise(job: Job, outlook: Outlook) -> dict[str, Any]:
    """The keys of prepare's summary (docs/contracts.md); what is not known is absent."""
    parts = {
        "method": outlook.method,
        "checkpointBytes": outlook.checkpoint_bytes,
        "memory": _memory_summary(outlook.memory) if outlook.memory else None,
        "scoring": _scoring_summary(job, outlook),
        "estimate": _estimate_summary(job, outlook),
        "savings": outlook.savings.model_dump(by_alias=True, mode="json") if outlook.savings else None,
        "advice": [{"reason": item.reason, "message": item.message} for item in outlook.advice] or None,
    }
    return {key: part for key, part in parts.items() if part is not None}


def report_parts(job: Job, outlook: Outlook) -> dict[str, Any]:
    """The same as fields of the report."""
    given = _estimate_summary(job, outlook)
    limit = float(job.budget.limit) if job.budget else None
    known = {"budget": limit, "savings": outlook.savings}
    return {
        "memory": _memory_report(job, outlook.memory) if outlook.memory else None,
        "scoring": _scoring_report(outlook.scoring) if isinstance(outlook.scoring, Scoring) else None,
        "estimate": report.Estimate.model_validate({**given, **known}) if given else None,
        "advice": tuple(report.Advice(reason=a.reason, message=a.message) for a in outlook.advice),
    }


def _workload(job: Job, base: BaseModel, plan: Plan, lengths: Lengths) -> Workload:
    gpu = job.accelerator or AcceleratorSpec(name="GPU")
    # Without a size nothing is chosen; advice looks only at what is asked for.
    card = Gpu(gpu.memory_gib or 0.0, gpu.name, gpu.peak_tflops)
    return workload_of(
        job.spec,
        base.shape(),
        card,
        method=job.spec.method,
        rank=plan.rank,
        longest=lengths.longest,
        rows=plan.effective_batch_size,
    )


def _scoring(job: Job, base: BaseModel, plan: Plan, lengths: Lengths, work: Workload) -> Scoring | NoScoring:
    answer = job.spec.evaluation.output_tokens if job.spec.evaluation else 0
    adapter = 0 if plan.rank is None else base.trained(plan.rank, plan.target_modules)
    served = Served(base.config, work.shape, adapter, lengths.longest + answer)
    return plan_scoring(served, work.gpu, work.gpus_per_node, gpus_of(job.other_gpus))


def _efficiency(job: Job, memory: MemoryPlan | None) -> Efficiency | None:
    if memory is None or job.accelerator is None or job.accelerator.peak_tflops is None:
        return None
    setup = memory.layout.setup
    measured = _measured(job, setup.method)
    return calibrated(measured.mfu, measured.runs) if measured else prior(setup)


def _measured(job: Job, method: Method) -> CalibrationSpec | None:
    """What finished runs of the job's own method reached; it says nothing of its fallback."""
    return job.calibration if method == job.spec.method else None


def _time(
    job: Job,
    work: Workload,
    method: Method,
    plan: Plan,
    lengths: Lengths,
    efficiency: Efficiency,
    scored: int,
) -> TimeEstimate:
    peak = work.gpu.peak_tflops or 0.0
    run = TimedRun(work.shape, method, lengths, plan.epochs, work.gpus, peak)
    scoring = _scoring_seconds(job, work, lengths, scored, peak) if job.scores_on_own_engine else 0.0
    return estimate(run, efficiency, startup_seconds(work.shape) + scoring)


def _scoring_seconds(job: Job, work: Workload, lengths: Lengths, scored: int, peak: float) -> float:
    """Of base and tuned model together."""
    answers = job.spec.evaluation.output_tokens * scored if job.spec.evaluation else 0
    asked = scored * lengths.tokens // max(lengths.rows, 1)
    return 2 * evaluation_seconds(work.shape, scored, asked, answers, peak)


def _cost(job: Job, time: TimeEstimate) -> Band | None:
    price = job.accelerator.price_per_hour if job.accelerator else None
    return (
        training_cost(time.hours, job.spec.resources.processes, float(price)) if price is not None else None
    )


def _savings(job: Job, cost: Band | None) -> report.Savings | None:
    given = job.spec.savings
    if given is None:
        return None
    saved = saved_per_month(
        given.calls_per_month, given.removed_prompt_tokens, float(given.price_per_million_tokens)
    )
    days = break_even_days(cost.expected, saved) if cost else None
    return report.Savings(per_month=round(saved, 2), break_even_days=None if days is None else round(days, 1))


def _intent(job: Job) -> Intent:
    changes = job.spec.knowledge_changes
    calls = job.spec.savings.calls_per_month if job.spec.savings else None
    return Intent(job.spec.goal, _PER_MONTH[changes] if changes else 0, calls)


def _memory_summary(memory: MemoryPlan | NoFit) -> dict[str, Any]:
    told = memory.document()
    left_out = {"gpus", "method", "suggestion"}
    return {key: value for key, value in told.items() if key not in left_out}


def _scoring_summary(job: Job, outlook: Outlook) -> dict[str, Any] | None:
    """On how many GPUs the engine scores: 1 where their size is not known."""
    if not job.scores_on_own_engine or not job.spec.resources.gpus_per_node:
        return None
    return {"gpus": outlook.scoring.gpus if isinstance(outlook.scoring, Scoring) else 1}


def _scoring_report(scoring: Scoring) -> report.Scoring:
    return report.Scoring(
        gpus=scoring.gpus,
        gpu=scoring.gpu.name,
        need_gib=in_gib(scoring.bytes),
        limit_gib=in_gib(scoring.limit),
    )


def _memory_report(job: Job, memory: MemoryPlan | NoFit) -> report.MemoryPlan:
    name = job.accelerator.name if job.accelerator else None
    return report.MemoryPlan.model_validate({**memory.document(), "gpu": name})


def _estimate_summary(job: Job, outlook: Outlook) -> dict[str, Any] | None:
    if outlook.time is None or outlook.efficiency is None:
        return None
    hours, cost = outlook.time.hours, outlook.cost
    return {
        "tokens": outlook.time.tokens,
        "hours": round(hours.expected, 3),
        "hoursLow": round(hours.low, 3),
        "hoursHigh": round(hours.high, 3),
        "cost": round(cost.expected, 2) if cost else None,
        "costLow": round(cost.low, 2) if cost else None,
        "costHigh": round(cost.high, 2) if cost else None,
        "currency": job.accelerator.currency if job.accelerator and cost else None,
        "mfu": round(outlook.efficiency.mfu, 3),
        "calibrated": _measured(job, outlook.method) is not None,
    }
