"""Scores in words, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.core.manifests import integer, number, text


def points(entry: Mapping[str, Any]) -> str:
    """A score with its 95 % interval in per cent: `3.3 % [1.4, 7.6]`."""
    score, low, high = (_number(entry, key) for key in ("score", "low", "high"))
    if score is None:
        return "an unknown score"
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * score:.1f} %{interval}"


def difference(entry: Mapping[str, Any]) -> str:
    """A paired difference with its interval in points: `+93.3 points [87.1, 96.6]`."""
    score, low, high = (_number(entry, key) for key in ("score", "low", "high"))
    if score is None:
        return "an unknown difference"
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * score:+.1f} points{interval}"


def rows_and_metric(entry: Mapping[str, Any]) -> str:
    """What was scored and by what: `150 held-out rows (fields)`."""
    rows, metric = integer(entry, "rows"), text(entry, "metric")
    return f"{'the' if rows is None else rows} held-out rows" + (f" ({metric})" if metric else "")


def _number(entry: Mapping[str, Any], key: str) -> float | None:
    """A number of a summary, or of status, where it is a string."""
    try:
        return number({"value": float(text(entry, key))}, "value")
    except ValueError:
        return number(entry, key)
