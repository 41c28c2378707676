"""Conditions: what is known about an object, ordered, with times that change only with the status."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.schema import ApiModel, Cel
from finetune_operator.core.times import format_time

ConditionStatus: TypeAlias = Literal["True", "False", "Unknown"]

MESSAGE_LIMIT = 1024
_REASON = Cel("self.matches('^[A-Za-z][A-Za-z0-9_]*$')", "must be a CamelCase word")


class Condition(ApiModel):
    """One fact about the object, in the shape that Kubernetes uses everywhere."""

    type: str = Field(description="What the fact is about, for example Ready.", min_length=1, max_length=63)
    status: ConditionStatus = Field(description="True, False, or Unknown while it is not decided.")
    reason: Annotated[str, _REASON] = Field(
        description="One CamelCase word that says why, for programs.", min_length=1, max_length=128
    )
    message: str = Field("", description="A sentence that says why, for people.", max_length=MESSAGE_LIMIT)
    last_transition_time: str | None = Field(
        None, description="When status last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int | None = Field(
        None, description="The generation of the spec that the fact was established for.", ge=0
    )


Conditions: TypeAlias = tuple[Condition, ...]


def set_condition(
    conditions: Iterable[Condition | Mapping[str, Any]],
    kind: str,
    status: bool | ConditionStatus | None,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """The conditions with one set, as plain JSON values in their order; a new type goes last.

    `status` None is Unknown. lastTransitionTime moves only when the status changes, as kstatus and
    `kubectl wait` expect. A long message is cut and a reason made one word, or the whole status would
    be refused.
    """
    entries = [_plain(entry) for entry in conditions]
    at = next((i for i, entry in enumerate(entries) if entry.get("type") == kind), len(entries))
    before = entries[at] if at < len(entries) else {}
    value = _status(status)
    changed = before.get("status") != value or not before.get("lastTransitionTime")
    entry = {
        "type": kind,
        "status": value,
        "reason": _word(reason),
        "message": clip(message),
        "lastTransitionTime": format_time(now) if changed else before["lastTransitionTime"],
        "observedGeneration": generation,
    }
    return [*entries[:at], entry, *entries[at + 1 :]]


def find(conditions: Iterable[Condition | Mapping[str, Any]], kind: str) -> Condition | None:
    """The condition of a type, None while it was never set."""
    for entry in conditions:
        plain = _plain(entry)
        if plain.get("type") == kind:
            return Condition.model_validate(plain)
    return None


def is_true(conditions: Iterable[Condition | Mapping[str, Any]], kind: str) -> bool:
    """Whether the condition of a type is set and True."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"


def clip(message: str, limit: int = MESSAGE_LIMIT) -> str:
    """A message of at most `limit` characters; a cut is visible as an ellipsis."""
    return message if len(message) <= limit else message[: limit - 1] + "…"


def _status(status: bool | ConditionStatus | None) -> str:
    if status is None:
        return "Unknown"
    return status if isinstance(status, str) else str(status)


def _word(reason: str) -> str:
    kept = re.sub("[^A-Za-z0-9_]", "", reason)[:128]
    return kept if kept[:1].isalpha() else "Unknown"


def _plain(entry: Condition | Mapping[str, Any]) -> dict[str, Any]:
    return entry.to_dict() if isinstance(entry, Condition) else dict(entry)
