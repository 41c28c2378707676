"""Tolerant access to manifests of other writers: what is missing or of another type reads as empty.

Deciding must never fail on an odd observation, or one strange object would stop its own repair.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_operator.api.times import parse_time


def mapping(value: Any, *path: str) -> Mapping[str, Any]:
    """The object at a path of keys, empty when there is none."""
    found = _walk(value, path)
    return found if isinstance(found, Mapping) else {}


def items(value: Any, *path: str) -> tuple[Mapping[str, Any], ...]:
    """The objects of the list at a path of keys."""
    found = _walk(value, path)
    if not isinstance(found, (list, tuple)):
        return ()
    return tuple(entry for entry in found if isinstance(entry, Mapping))


def text(value: Any, *path: str) -> str:
    """The string at a path of keys, "" when there is none."""
    found = _walk(value, path)
    return found if isinstance(found, str) else ""


def integer(value: Any, *path: str) -> int | None:
    """The whole number at a path of keys."""
    found = _walk(value, path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def number(value: Any, *path: str) -> float | None:
    """The finite number at a path of keys."""
    found = _walk(value, path)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    return float(found) if abs(found) < 1e18 else None  # false for NaN and infinities too


def moment(value: Any, *path: str) -> datetime | None:
    """The time at a path of keys."""
    try:
        return parse_time(text(value, *path))
    except ValueError:
        return None


def condition(manifest: Any, kind: str) -> Mapping[str, Any]:
    """One entry of `status.conditions`, empty when it is absent."""
    entries = items(manifest, "status", "conditions")
    return next((entry for entry in entries if entry.get("type") == kind), {})


def is_true(manifest: Any, kind: str) -> bool:
    """Whether a condition of the manifest is True."""
    return text(condition(manifest, kind), "status") == "True"


def _walk(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
