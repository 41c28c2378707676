"""Conditions keep their order, and their times move only with their status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.conditions import Conditions, Fact, find, is_true, with_facts

T0 = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
TYPES = st.sampled_from(["Validated", "Trained", "Succeeded"])
STATUSES = st.sampled_from([True, False, None])


def ready(status: bool | None = True, reason: str = "Serving", message: str = "yes") -> Fact:
    return Fact("Ready", status, reason, message)


@settings(deadline=None)  # other work shares the processor
@given(steps=st.lists(st.tuples(TYPES, STATUSES, st.text(max_size=20)), max_size=20))
def test_the_time_moves_exactly_when_the_status_changes(steps: list[tuple[str, bool | None, str]]) -> None:
    conditions: Conditions = ()
    for number, (kind, status, message) in enumerate(steps):
        before = find(conditions, kind)
        fact = Fact(kind, status, "Why", message)
        conditions = with_facts(conditions, [fact], number, T0 + timedelta(seconds=number))
        after = find(conditions, kind)
        assert after is not None
        same_time = before is not None and before.last_transition_time == after.last_transition_time
        assert same_time == (before is not None and before.status == after.status)


@settings(deadline=None)  # other work shares the processor
@given(steps=st.lists(st.tuples(TYPES, STATUSES), max_size=20))
def test_a_type_stays_where_it_was_first_set(steps: list[tuple[str, bool | None]]) -> None:
    conditions = with_facts((), (Fact(kind, status, "Why", "") for kind, status in steps), 1, T0)
    assert [c.type for c in conditions] == list(dict.fromkeys(kind for kind, _ in steps))


def test_setting_the_same_again_changes_nothing() -> None:
    once = with_facts((), [ready()], 3, T0)
    assert with_facts(once, [ready()], 3, T0 + timedelta(hours=1)) == once


@pytest.mark.parametrize(("given", "written"), [(True, "True"), (False, "False"), (None, "Unknown")])
def test_truth_is_written_as_kubernetes_writes_it(given: bool | None, written: str) -> None:
    assert with_facts((), [ready(given)], 1, T0)[0].status == written


@pytest.mark.parametrize(
    ("reason", "written"), [("Image Pull!", "ImagePull"), ("", "Unknown"), ("9Lives", "Unknown")]
)
def test_a_reason_that_the_server_would_refuse_is_made_a_word(reason: str, written: str) -> None:
    assert with_facts((), [ready(reason=reason)], 1, T0)[0].reason == written


def test_a_long_message_is_cut_to_what_the_server_takes() -> None:
    message = with_facts((), [ready(message="x" * 5000)], 1, T0)[0].message
    assert (len(message), message[-1]) == (1024, "…")


def test_a_condition_is_found_by_its_type() -> None:
    conditions = with_facts((), [ready()], 1, T0)
    assert is_true(conditions, "Ready")
    assert not is_true(conditions, "Succeeded")
