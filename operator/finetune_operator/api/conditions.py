"""Conditions: what is known about an object, ordered, with times that change only with the status."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.schema import ApiModel
from finetune_operator.core.actions import Emit
from finetune_operator.core.times import format_time

ConditionStatus: TypeAlias = Literal["True", "False", "Unknown"]

MESSAGE_LIMIT = 1024


class Condition(ApiModel):
    """One fact about the object, in the shape that Kubernetes uses everywhere."""

    type: str = Field(description="What the fact is about, for example Ready.", min_length=1, max_length=63)
    status: ConditionStatus = Field(description="True, False, or Unknown while it is not decided.")
    reason: str = Field(
        description="One CamelCase word that says why, for programs.",
        min_length=1,
        max_length=128,
        # A rule of CEL would cost the API server ten evaluations for each write of a status.
        json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9_]*$"},
    )
    message: str = Field("", description="A sentence that says why, for people.", max_length=MESSAGE_LIMIT)
    last_transition_time: str | None = Field(
        None, description="When status last changed.", json_schema_extra={"format": "date-time"}
    )
    observed_generation: int | None = Field(
        None, description="The generation of the spec that the fact was established for.", ge=0
    )


Conditions: TypeAlias = tuple[Condition, ...]


@dataclass(frozen=True)
class Fact:
    """What a plan found out about one condition; `status` None is Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str


def with_facts(
    conditions: Iterable[Condition], facts: Iterable[Fact], generation: int, now: datetime
) -> Conditions:
    """The conditions with these facts set, in their order; a new type goes last.

    lastTransitionTime moves only with the status, as kstatus and `kubectl wait` expect. A long message
    is cut and a reason made one word, or the whole status would be refused.
    """
    found = {condition.type: condition for condition in conditions}
    for fact in facts:
        found[fact.type] = _established(found.get(fact.type), fact, generation, now)
    return tuple(found.values())


def _established(before: Condition | None, fact: Fact, generation: int, now: datetime) -> Condition:
    status = _status(fact.status)
    since = before.last_transition_time if before is not None and before.status == status else None
    return Condition(
        type=fact.type,
        status=status,
        reason=word(fact.reason),
        message=clip(fact.message),
        last_transition_time=since or format_time(now),
        observed_generation=generation,
    )


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of a type, None while it was never set."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of a type is set and True."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"


def ready_events(before: Iterable[Condition], after: Iterable[Condition]) -> list[Emit]:
    """One event per change of the reason of Ready, a warning where the object is Stalled."""
    known, ready = find(before, "Ready"), find(after, "Ready")
    if ready is None or (known is not None and known.reason == ready.reason):
        return []
    return [Emit("Warning" if is_true(after, "Stalled") else "Normal", ready.reason, ready.message)]


def clip(message: str, limit: int = MESSAGE_LIMIT) -> str:
    """A message of at most `limit` characters; a cut is visible as an ellipsis."""
    return message if len(message) <= limit else message[: limit - 1] + "…"


def word(reason: str) -> str:
    """A reason as the schema takes it: one CamelCase word."""
    kept = re.sub("[^A-Za-z0-9_]", "", reason)[:128]
    return kept if kept[:1].isalpha() else "Unknown"


def _status(status: bool | None) -> ConditionStatus:
    if status is None:
        return "Unknown"
    return "True" if status else "False"
