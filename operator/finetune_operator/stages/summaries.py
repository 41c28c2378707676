"""Summaries of results as typed status sections, and scores in words.

Every field is bounded: a number too many must not make a status unwritable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from finetune_operator.api.conditions import clip
from finetune_operator.api.evaluation.scores import CutAnswers, GraderScore, Interval, Scores
from finetune_operator.api.finetunejobstatus import (
    Artifact,
    Cost,
    MemoryPlan,
    Progress,
    Resolved,
    ResolvedLora,
    ResolvedTraining,
)
from finetune_operator.core.manifests import integer, items, mapping, number, text

_GRADERS = 8
_WARNINGS = 32
_ADVICE = 8
_PARTS = 16
_RULES = 64
_TARGETS = 32
_RIVALS = 4
_SUITES = 9  # and all of them together
_CUT = 0.05  # share of answers


def resolved(summary: Mapping[str, Any], spec_digest: str) -> Resolved:
    """`status.resolved` of the summary of prepare."""
    overrides = _overrides(summary)
    said = list(_warnings(summary))
    said += [f"Rule {name} counts as {now}: spec.dataset.rules." for name, now in overrides.items()]
    return Resolved(
        spec_digest=spec_digest,
        base_name=_text(summary, "baseName", 512),
        base_revision=_text(summary, "baseRevision", 64),
        base_fingerprint=_text(summary, "baseFingerprint", 71),
        rows=_count(summary, "rows"),
        holdout_rows=_count(summary, "holdoutRows"),
        tokens=_count(summary, "tokens"),
        dataset_digest=_text(summary, "datasetDigest", 71),
        holdout_digest=_text(summary, "holdoutDigest", 71),
        training=_training(mapping(summary, "training")),
        method=_text(summary, "method", 16),
        lora=_lora(mapping(summary, "lora")),
        severities=overrides or None,
        warnings=tuple(said[:_WARNINGS]),
    )


def memory_plan(summary: Mapping[str, Any]) -> MemoryPlan:
    """`status.plan` of the summary of prepare."""
    memory = mapping(summary, "memory")
    chosen = mapping(memory, "chosen")
    sizes = {str(name)[:63]: decimal(size, 2) for name, size in mapping(memory, "breakdown").items()}
    breakdown = {name: size for name, size in list(sizes.items())[:_PARTS] if size is not None}
    return MemoryPlan(
        fits=_truth(memory, "fits"),
        tight=_truth(memory, "tight"),
        peak_gib=decimal(memory.get("peakGiB"), 2),
        limit_gib=decimal(memory.get("limitGiB"), 2),
        gpu_memory_gib=decimal(memory.get("gpuMemoryGiB"), 2),
        host_gib=decimal(memory.get("hostGiB"), 2),
        breakdown=breakdown or None,
        zero_stage=_count(chosen, "zeroStage"),
        micro_batch_tokens=_count(chosen, "microBatchTokens"),
        gradient_checkpointing=_text(chosen, "gradientCheckpointing", 16),
        offload=_text(chosen, "offload", 16),
        checkpoint_bytes=_count(summary, "checkpointBytes"),
        scoring_gpus=_count(mapping(summary, "scoring"), "gpus"),
    )


def expected_cost(summary: Mapping[str, Any]) -> Cost:
    """`status.cost` of the summary of prepare: the estimate, and what the model will save."""
    estimate, savings = mapping(summary, "estimate"), mapping(summary, "savings")
    return Cost(
        estimate=in_money(number(estimate, "cost")),
        low=in_money(number(estimate, "costLow")),
        high=in_money(number(estimate, "costHigh")),
        currency=_text(estimate, "currency", 3),
        hours=decimal(estimate.get("hours"), 2),
        hours_low=decimal(estimate.get("hoursLow"), 2),
        hours_high=decimal(estimate.get("hoursHigh"), 2),
        expected_mfu=decimal(estimate.get("mfu")),
        calibrated=_truth(estimate, "calibrated"),
        per_month_saved=in_money(number(savings, "perMonth")),
        break_even_days=decimal(savings.get("breakEvenDays"), 1),
    )


def advice(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(reason, message) of what prepare advises."""
    found = [(text(entry, "reason"), text(entry, "message")) for entry in items(summary, "advice")]
    return [entry for entry in found if all(entry)][:_ADVICE]


def baseline_scores(summary: Mapping[str, Any]) -> Scores:
    """`status.scores` of the summary of baseline."""
    graders = {name: GraderScore(base=decimal(value)) for name, value in mapping(summary, "graders").items()}
    return _scores(
        summary,
        base=_interval(summary),
        graders=_bounded(graders),
        cut=None if (count := _count(summary, "cut")) is None else CutAnswers(base=count),
        baseline_verdict=_text(summary, "verdict", 64),
        detectable=_detectable(summary),
    )


def comparison(summary: Mapping[str, Any]) -> Scores:
    """`status.scores` of the summary of evaluate."""
    kept = mapping(summary, "secondary")
    graders = {
        name: _grader_score(mapping(pair), mapping(kept, name))
        for name, pair in mapping(summary, "graders").items()
    }
    return _scores(
        summary,
        base=_interval(mapping(summary, "base")),
        tuned=_interval(mapping(summary, "tuned")),
        delta=_interval(mapping(summary, "delta")),
        graders=_bounded(graders),
        prompt_alone=_text(summary, "promptAlone", 512),
        cut=_cut(mapping(summary, "cut")),
        verdict=_text(summary, "verdict", 64),
        flip_rate=decimal(mapping(summary, "judge").get("flipRate")),
    )


def _scores(summary: Mapping[str, Any], **of_the_stage: Any) -> Scores:
    """What baseline and evaluate report alike, with what only one of them does."""
    return Scores(
        metric=_text(summary, "metric", 64),
        rows=_count(summary, "rows"),
        groups=_count(summary, "groups"),
        rivals=_rivals(summary),
        regression=_regression(summary),
        ungraded=_count(summary, "ungraded"),
        ungraded_reason=_text(summary, "ungradedReason", 512),
        holdout_uses=_count(summary, "holdoutUses"),
        warnings=_warnings(summary),
        **of_the_stage,
    )


def judge_cost(summary: Mapping[str, Any]) -> str | None:
    """What the judge of a scoring stage cost, None where it had no prices or none was asked."""
    return decimal(number(mapping(summary, "judge"), "cost"), 6)


def joined(known: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """Warnings of two stages, each once."""
    return tuple(dict.fromkeys((*known, *new)))[:_WARNINGS]


def artifact(summary: Mapping[str, Any], destination: str) -> Artifact | None:
    """`status.artifact` of the summary of publish, None when it names no digest."""
    digest = _text(summary, "digest", 71)
    if digest is None:
        return None
    return Artifact(
        destination=_text(summary, "destination", 512) or destination,
        digest=digest,
        promoted=summary.get("promoted") is True,
        verdict=_text(summary, "verdict", 64),
    )


def progress(document: Mapping[str, Any] | None, stage: str) -> Progress | None:
    """`status.progress` of what the running stage serves, None while it serves nothing of this stage."""
    if document is None or text(document, "stage") != stage:
        return None
    fraction, eta = number(document, "fraction"), number(document, "etaSeconds")
    seconds = None if eta is None or eta < 0 else min(round(eta), 10**9)
    return Progress(
        percent=None if fraction is None else max(0, min(100, int(fraction * 100))),
        step=_count(document, "step"),
        total_steps=_count(document, "totalSteps"),
        loss=decimal(document.get("loss")),
        tokens_per_second=decimal(document.get("tokensPerSecond"), 1),
        eta_seconds=seconds,
        eta=None if seconds is None else span(seconds),
        message=clip(text(document, "message")) or None,
        step_seconds=decimal(document.get("stepSeconds"), 1),
    )


def points(score: Interval | None) -> str:
    """A score with its 95 % interval in per cent: `3.3 % [1.4, 7.6]`."""
    if score is None or (value := as_number(score.score)) is None:
        return "an unknown score"
    return f"{100 * value:.1f} %{_between(score, '.1f')}"


def difference(score: Interval | None) -> str:
    """A paired difference with its interval in points: `+93.3 points [87.1, 96.6]`."""
    if score is None or (value := as_number(score.score)) is None:
        return "an unknown difference"
    return f"{100 * value:+.1f} points{_between(score, '+.1f')}"


def best_rival(scores: Scores) -> tuple[str, Interval] | None:
    """The prompt with which the base scores highest, if that is more than without one."""
    known = {name: value for name, given in scores.rivals.items() if (value := as_number(given.score))}
    best = max(known, key=known.__getitem__, default=None)
    base = as_number(scores.base.score) if scores.base is not None else None
    return None if best is None or known[best] <= (base or 0.0) else (best, scores.rivals[best])


def rows_and_metric(scores: Scores) -> str:
    """What was scored and by what: `150 held-out rows (fields)`."""
    rows = "the" if scores.rows is None else scores.rows
    groups = "" if scores.groups is None else f" in {scores.groups} groups"
    return f"{rows} held-out rows{groups}" + (f" ({scores.metric})" if scores.metric else "")


def cut_answers(scores: Scores) -> str:
    """A sentence on answers of the base that were cut, with a blank before it; "" when none was."""
    count, rows = scores.cut.base if scores.cut else 0, scores.rows
    if not count or not rows:
        return ""
    said = f" {count} of its answers reached spec.evaluation.maxTokens and ended there"
    many = count > _CUT * rows
    return f"{said}; a right answer that is cut fails: raise it in a new FineTuneJob." if many else f"{said}."


def as_number(value: str | None) -> float | None:
    """The finite number that a status holds as a string."""
    try:
        return number(float(value or ""))
    except ValueError:
        return None


def _between(score: Interval, form: str) -> str:
    low, high = as_number(score.low), as_number(score.high)
    return "" if low is None or high is None else f" [{100 * low:{form}}, {100 * high:{form}}]"


def span(seconds: int) -> str:
    """A duration for people: 45s, 3m, 2h 5m, 3d 4h."""
    if seconds < 60:
        return f"{seconds}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours}h {minutes % 60}m" if hours < 24 else f"{hours // 24}d {hours % 24}h"


def decimal(value: Any, digits: int = 4) -> str | None:
    """A number as the API shows it: a string; a string that is a number stays as it is."""
    if isinstance(value, str):
        return value[:32] or None
    found = number(value)
    return None if found is None else f"{found:.{digits}f}"


def in_money(amount: float | Decimal | None) -> str | None:
    """An amount of money: two decimals, and four where two would hide it."""
    return None if amount is None else f"{amount:.{4 if 0 < amount < 1 else 2}f}"


def _warnings(summary: Mapping[str, Any]) -> tuple[str, ...]:
    found = summary.get("warnings")
    said = [clip(w) for w in found if isinstance(w, str)] if isinstance(found, (list, tuple)) else []
    return tuple(said[:_WARNINGS])


def _overrides(summary: Mapping[str, Any]) -> dict[str, str]:
    given = mapping(summary, "overrides").items()
    return {str(name)[:63]: now[:16] for name, now in list(given)[:_RULES] if isinstance(now, str)}


def _training(training: Mapping[str, Any]) -> ResolvedTraining | None:
    rate = training.get("learningRate")
    # A learning rate of 1e-5 has no four decimals.
    shown = f"{rate:g}" if number(rate) is not None else decimal(rate)
    found = ResolvedTraining(
        epochs=_count(training, "epochs"),
        learning_rate=shown,
        effective_batch_size=_count(training, "effectiveBatchSize"),
        max_length=_count(training, "maxLength"),
        seed=_count(training, "seed"),
        steps=_count(training, "steps"),
    )
    return found if found.to_dict() else None


def _lora(lora: Mapping[str, Any]) -> ResolvedLora | None:
    targets = lora.get("targetModules")
    names = [name[:64] for name in targets if isinstance(name, str)] if isinstance(targets, list) else []
    found = ResolvedLora(
        rank=_count(lora, "rank"),
        alpha=_count(lora, "alpha"),
        rank_stabilized=_truth(lora, "rankStabilized"),
        target_modules=tuple(names[:_TARGETS]),
    )
    return found if lora else None


def _interval(entry: Mapping[str, Any]) -> Interval | None:
    score, low, high = (decimal(entry.get(key)) for key in ("score", "low", "high"))
    return None if (score, low, high) == (None, None, None) else Interval(score=score, low=low, high=high)


def _grader_score(pair: Mapping[str, Any], kept: Mapping[str, Any]) -> GraderScore:
    return GraderScore(
        base=decimal(pair.get("base")),
        tuned=decimal(pair.get("tuned")),
        low=decimal(kept.get("low")),
        margin=decimal(kept.get("margin")),
        holds=_truth(kept, "holds"),
    )


def _detectable(summary: Mapping[str, Any]) -> str | None:
    """In points; `none` when the hold-out shows no improvement, None when that was not computed."""
    if "detectable" not in summary:
        return None
    effect = number(summary, "detectable")
    return "none" if effect is None else f"{100 * effect:.1f} points"


def _cut(entry: Mapping[str, Any]) -> CutAnswers | None:
    found = CutAnswers(base=_count(entry, "base"), tuned=_count(entry, "tuned"))
    return found if found.to_dict() else None


def _bounded(graders: dict[str, GraderScore]) -> dict[str, GraderScore]:
    return {str(name)[:63]: value for name, value in list(graders.items())[:_GRADERS]}


def _rivals(summary: Mapping[str, Any]) -> dict[str, Interval]:
    named = list(mapping(summary, "rivals").items())[:_RIVALS]
    found = {str(name)[:63]: _interval(mapping(entry)) for name, entry in named}
    return {name: interval for name, interval in found.items() if interval is not None}


def _regression(summary: Mapping[str, Any]) -> dict[str, GraderScore]:
    named = list(mapping(summary, "regression").items())[:_SUITES]
    return {str(name)[:63]: _suite(mapping(entry)) for name, entry in named}


def _suite(entry: Mapping[str, Any]) -> GraderScore:
    base, tuned, low, margin = (decimal(entry.get(key)) for key in ("base", "tuned", "low", "margin"))
    return GraderScore(base=base, tuned=tuned, low=low, margin=margin, holds=_truth(entry, "holds"))


def _truth(entry: Mapping[str, Any], key: str) -> bool | None:
    found = entry.get(key)
    return found if isinstance(found, bool) else None


def _text(summary: Mapping[str, Any], key: str, limit: int) -> str | None:
    return text(summary, key)[:limit] or None


def _count(summary: Mapping[str, Any], key: str) -> int | None:
    found = integer(summary, key)
    return found if found is not None and 0 <= found < 2**53 else None
