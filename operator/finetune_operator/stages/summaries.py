"""Summaries of results as bounded status fields: a number too many must not make a status unwritable."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from finetune_operator.api.conditions import clip
from finetune_operator.core.manifests import integer, items, mapping, number, text

_GRADERS = 8
_WARNINGS = 32
_ADVICE = 8
_PARTS = 16
_RULES = 64
_TARGETS = 32


def resolved(summary: Mapping[str, Any], spec_digest: str) -> dict[str, Any]:
    """`status.resolved` of the summary of prepare."""
    training = mapping(summary, "training")
    warnings = summary.get("warnings")
    said = [clip(w) for w in warnings if isinstance(w, str)] if isinstance(warnings, (list, tuple)) else []
    overrides = _overrides(summary)
    said += [f"Rule {name} counts as {now}: spec.dataset.rules." for name, now in overrides.items()]
    return {
        "specDigest": spec_digest,
        "baseName": _text(summary, "baseName", 512),
        "baseRevision": _text(summary, "baseRevision", 64),
        "baseFingerprint": _text(summary, "baseFingerprint", 71),
        "rows": _count(summary, "rows"),
        "holdoutRows": _count(summary, "holdoutRows"),
        "tokens": _count(summary, "tokens"),
        "datasetDigest": _text(summary, "datasetDigest", 71),
        "holdoutDigest": _text(summary, "holdoutDigest", 71),
        "training": _training(training) or None,
        "method": _text(summary, "method", 16),
        "lora": _lora(mapping(summary, "lora")) or None,
        "rules": overrides or None,
        "warnings": said[:_WARNINGS] or None,
    }


def memory_plan(summary: Mapping[str, Any]) -> dict[str, Any]:
    """`status.plan` of the summary of prepare."""
    memory = mapping(summary, "memory")
    chosen = mapping(memory, "chosen")
    amounts = {key: decimal(memory.get(key), 2) for key in ("peakGiB", "limitGiB", "gpuMemoryGiB", "hostGiB")}
    breakdown = {str(name)[:63]: decimal(size, 2) for name, size in mapping(memory, "breakdown").items()}
    return {
        **amounts,
        **{key: memory[key] if isinstance(memory.get(key), bool) else None for key in ("fits", "tight")},
        "breakdown": dict(list(_known(breakdown).items())[:_PARTS]) or None,
        "zeroStage": _count(chosen, "zeroStage"),
        "microBatchTokens": _count(chosen, "microBatchTokens"),
        "gradientCheckpointing": _text(chosen, "gradientCheckpointing", 16),
        "offload": _text(chosen, "offload", 16),
        "checkpointBytes": _count(summary, "checkpointBytes"),
    }


def expected_cost(summary: Mapping[str, Any]) -> dict[str, Any]:
    """`status.cost` of the summary of prepare: the estimate, and what the model will save."""
    estimate, savings = mapping(summary, "estimate"), mapping(summary, "savings")
    calibrated = estimate.get("calibrated")
    return {
        "estimate": in_money(number(estimate, "cost")),
        "low": in_money(number(estimate, "costLow")),
        "high": in_money(number(estimate, "costHigh")),
        "currency": _text(estimate, "currency", 3),
        **{key: decimal(estimate.get(key), 2) for key in ("hours", "hoursLow", "hoursHigh")},
        "expectedMfu": decimal(estimate.get("mfu")),
        "calibrated": calibrated if isinstance(calibrated, bool) else None,
        "perMonthSaved": in_money(number(savings, "perMonth")),
        "breakEvenDays": decimal(savings.get("breakEvenDays"), 1),
    }


def measured_memory(summary: Mapping[str, Any]) -> dict[str, Any]:
    """`status.plan` of the summary of train."""
    return {"measuredGiB": decimal(summary.get("peakGiB"), 2)}


def measured_saving(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """`status.plan` of what training serves while it runs."""
    return {"checkpointSeconds": decimal(mapping(document).get("checkpointSeconds"), 1)}


def measured_speed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """`status.cost` of the summary of train."""
    return {"mfu": decimal(summary.get("mfu"))}


def advice(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(reason, message) of what prepare advises."""
    found = [(text(entry, "reason"), text(entry, "message")) for entry in items(summary, "advice")]
    return [entry for entry in found if all(entry)][:_ADVICE]


def baseline_scores(summary: Mapping[str, Any]) -> dict[str, Any]:
    """`status.scores` of the summary of baseline."""
    graders = {name: {"base": decimal(value)} for name, value in mapping(summary, "graders").items()}
    return {
        "metric": _text(summary, "metric", 64),
        "rows": _count(summary, "rows"),
        "base": _interval(summary),
        "graders": _bounded(graders),
        "baselineVerdict": _text(summary, "verdict", 64),
    }


def comparison(summary: Mapping[str, Any]) -> dict[str, Any]:
    """`status.scores` of the summary of evaluate."""
    graders = {
        name: _known({side: decimal(mapping(pair).get(side)) for side in ("base", "tuned")})
        for name, pair in mapping(summary, "graders").items()
    }
    return {
        "metric": _text(summary, "metric", 64),
        "rows": _count(summary, "rows"),
        **{side: _interval(mapping(summary, side)) for side in ("base", "tuned", "delta")},
        "graders": _bounded(graders),
        "verdict": _text(summary, "verdict", 64),
    }


def artifact(summary: Mapping[str, Any], destination: str) -> dict[str, Any] | None:
    """`status.artifact` of the summary of publish, None when it names no digest."""
    digest = _text(summary, "digest", 71)
    if digest is None:
        return None
    entry = {
        "destination": _text(summary, "destination", 512) or destination,
        "digest": digest,
        "promoted": summary.get("promoted") is True,
        "verdict": _text(summary, "verdict", 64),
    }
    return _known(entry)


def progress(document: Mapping[str, Any] | None, stage: str) -> dict[str, Any] | None:
    """`status.progress` of what the running stage serves, None while it serves nothing of this stage."""
    if document is None or text(document, "stage") != stage:
        return None
    fraction, eta = number(document, "fraction"), number(document, "etaSeconds")
    seconds = None if eta is None or eta < 0 else min(round(eta), 10**9)
    entry = {
        "percent": None if fraction is None else max(0, min(100, int(fraction * 100))),
        "step": _count(document, "step"),
        "totalSteps": _count(document, "totalSteps"),
        "loss": decimal(document.get("loss")),
        "tokensPerSecond": decimal(document.get("tokensPerSecond"), 1),
        "etaSeconds": seconds,
        "eta": None if seconds is None else span(seconds),
        "message": clip(text(document, "message")) or None,
    }
    return _known(entry)


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


def _overrides(summary: Mapping[str, Any]) -> dict[str, str]:
    given = mapping(summary, "overrides").items()
    return {str(name)[:63]: now[:16] for name, now in list(given)[:_RULES] if isinstance(now, str)}


def _training(training: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("epochs", "effectiveBatchSize", "maxLength", "seed", "steps")
    counts = {key: _count(training, key) for key in keys}
    rate = training.get("learningRate")
    # A learning rate of 1e-5 has no four decimals.
    shown = f"{rate:g}" if number(rate) is not None else decimal(rate)
    return _known({**counts, "learningRate": shown})


def _lora(lora: Mapping[str, Any]) -> dict[str, Any]:
    stabilized, targets = lora.get("rankStabilized"), lora.get("targetModules")
    names = [name[:64] for name in targets if isinstance(name, str)] if isinstance(targets, list) else []
    return _known(
        {
            "rank": _count(lora, "rank"),
            "alpha": _count(lora, "alpha"),
            "rankStabilized": stabilized if isinstance(stabilized, bool) else None,
            "targetModules": names[:_TARGETS] or None,
        }
    )


def _interval(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    return _known({key: decimal(entry.get(key)) for key in ("score", "low", "high")}) or None


def _bounded(graders: dict[str, Any]) -> dict[str, Any] | None:
    return {str(name)[:63]: value for name, value in list(graders.items())[:_GRADERS]} or None


def _known(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _text(summary: Mapping[str, Any], key: str, limit: int) -> str | None:
    return text(summary, key)[:limit] or None


def _count(summary: Mapping[str, Any], key: str) -> int | None:
    found = integer(summary, key)
    return found if found is not None and 0 <= found < 2**53 else None
