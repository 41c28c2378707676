"""Conditions keep their order, and their times move only with their status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.conditions import Condition, find, is_true, set_condition

T0 = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
KINDS = st.sampled_from(["Validated", "Trained", "Succeeded"])
STATUSES = st.sampled_from(["True", "False", "Unknown"])


@settings(deadline=None)  # other work shares the processor
@given(steps=st.lists(st.tuples(KINDS, STATUSES, st.text(max_size=20)), max_size=20))
def test_the_time_moves_exactly_when_the_status_changes(
    steps: list[tuple[str, Literal["True", "False", "Unknown"], str]],
) -> None:
    conditions: list[dict[str, Any]] = []
    for number, (kind, status, message) in enumerate(steps):
        before = find(conditions, kind)
        conditions = set_condition(
            conditions, kind, status, "Why", message, number, T0 + timedelta(seconds=number)
        )
        after = find(conditions, kind)
        assert after is not None
        same_time = before is not None and before.last_transition_time == after.last_transition_time
        assert same_time == (before is not None and before.status == status)


@settings(deadline=None)  # other work shares the processor
@given(steps=st.lists(st.tuples(KINDS, STATUSES), max_size=20))
def test_a_type_stays_where_it_was_first_set(
    steps: list[tuple[str, Literal["True", "False", "Unknown"]]],
) -> None:
    conditions: list[dict[str, Any]] = []
    for kind, status in steps:
        conditions = set_condition(conditions, kind, status, "Why", "", 1, T0)
    assert [c["type"] for c in conditions] == list(dict.fromkeys(kind for kind, _ in steps))


def test_setting_the_same_again_changes_nothing() -> None:
    once = set_condition([], "Ready", True, "Serving", "yes", 3, T0)
    assert set_condition(once, "Ready", True, "Serving", "yes", 3, T0 + timedelta(hours=1)) == once


@pytest.mark.parametrize(
    ("given", "written"), [(True, "True"), (False, "False"), (None, "Unknown"), ("Unknown", "Unknown")]
)
def test_truth_is_written_as_kubernetes_writes_it(
    given: bool | Literal["Unknown"] | None, written: str
) -> None:
    assert set_condition([], "Ready", given, "Why", "", 1, T0)[0]["status"] == written


@pytest.mark.parametrize(
    ("reason", "written"), [("Image Pull!", "ImagePull"), ("", "Unknown"), ("9Lives", "Unknown")]
)
def test_a_reason_that_the_server_would_refuse_is_made_a_word(reason: str, written: str) -> None:
    assert set_condition([], "Ready", False, reason, "", 1, T0)[0]["reason"] == written


def test_a_long_message_is_cut_to_what_the_server_takes() -> None:
    message = set_condition([], "Ready", False, "Why", "x" * 5000, 1, T0)[0]["message"]
    assert (len(message), message[-1]) == (1024, "…")


def test_typed_conditions_and_plain_ones_are_the_same() -> None:
    plain = set_condition([], "Ready", True, "Serving", "yes", 1, T0)
    typed = [Condition.model_validate(entry) for entry in plain]
    assert set_condition(typed, "Ready", True, "Serving", "yes", 1, T0) == plain
    assert is_true(typed, "Ready")
    assert not is_true(typed, "Succeeded")
