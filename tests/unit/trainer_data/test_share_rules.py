"""Rules about shares of rows: what they say, and that chunks add up to the whole."""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.formats import Row
from finetune_trainer.data.rowrule import RowRule, Tally, tally
from finetune_trainer.data.rules import (
    FormatRuns,
    Shares,
    format_runs,
    length_findings,
    length_stats,
    shares,
)

RAW = {
    "messages": {"messages": [{"role": "user"}]},
    "pairs": {"prompt": "a"},
    "text": {"text": "a"},
    "unknown": {},
}
USER = {"role": "user", "content": "a"}
ASSISTANT = {"role": "assistant", "content": "b"}


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _chunks(rows: Sequence[Any], cuts: list[int]) -> list[Sequence[Any]]:
    places = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
    return [rows[a:b] for a, b in pairwise(places)]


cuts = st.lists(st.integers(0, 60), max_size=5)


@given(st.lists(st.sampled_from(sorted(RAW)), max_size=60), cuts)
def test_runs_of_formats_add_up(kinds: list[str], cuts: list[int]) -> None:
    rows = [(number, RAW[kind]) for number, kind in enumerate(kinds, start=1)]
    parts = [format_runs(chunk) for chunk in _chunks(rows, cuts)]
    assert reduce(add, parts, FormatRuns()) == format_runs(rows)


@given(st.lists(st.sampled_from(["s1", "s2", "no system", "no user", "text"]), max_size=60), cuts)
def test_shares_add_up(kinds: list[str], cuts: list[int]) -> None:
    messages: dict[str, tuple[dict[str, Any], ...]] = {
        "s1": (_system("1"), USER, ASSISTANT), "s2": (_system("2"), USER, ASSISTANT),
        "no system": (USER, ASSISTANT), "no user": (_system("1"), ASSISTANT), "text": (),
    }  # fmt: skip
    rows = [Row(number, "x", messages[kind]) for number, kind in enumerate(kinds, start=1)]
    assert reduce(add, map(shares, _chunks(rows, cuts)), Shares()) == shares(rows)


@given(st.lists(st.integers(0, 3), max_size=60), cuts)
def test_tallies_add_up(values: list[int], cuts: list[int]) -> None:
    rule: RowRule[int] = RowRule(1, "odd", lambda value: f"it is {value}" if value % 2 else None, "halve it")
    rows = list(enumerate(values, start=1))
    assert reduce(add, (tally(rule, chunk) for chunk in _chunks(rows, cuts)), Tally()) == tally(rule, rows)


def test_mixed_formats_are_told_apart_by_ranges_of_rows() -> None:
    rows = [(number, RAW["messages" if number <= 900 else "pairs"]) for number in range(1, 951)]
    finding = format_runs(rows).finding()
    assert finding is not None
    assert finding.message == "Formats are mixed: rows 1-900 are messages, rows 901-950 are pairs; use one."
    assert (finding.number, finding.severity, finding.count) == (3, "error", 50)
    assert finding.rows == tuple(range(901, 921))


def test_alternating_formats_are_shown_in_part() -> None:
    rows = [(number, RAW["text" if number % 2 else "pairs"]) for number in range(1, 1001)]
    finding = format_runs(rows).finding()
    assert finding is not None
    assert finding.message.endswith("row 4 is pairs ...; use one.")
    assert finding.count == 500


@pytest.mark.parametrize("kinds", [["pairs", "pairs"], ["pairs", "unknown", "pairs"], []])
def test_one_format_is_not_mixed(kinds: list[str]) -> None:
    assert format_runs([(number, RAW[kind]) for number, kind in enumerate(kinds, 1)]).finding() is None


def _rows(with_system: int, without: int, *, user: bool = True) -> list[Row]:
    rest = (USER, ASSISTANT) if user else (ASSISTANT,)
    kinds = [(_system("s"), *rest)] * with_system + [rest] * without
    return [Row(number, "x", messages) for number, messages in enumerate(kinds, start=1)]


@pytest.mark.parametrize(
    ("with_system", "without", "severity"),
    [
        (100, 0, None),
        (0, 100, None),
        (95, 5, "warning"),
        (94, 6, "error"),
        (6, 94, "error"),
        (5, 95, "warning"),
    ],
    ids=["all have it", "none has it", "5 % lack it", "6 % lack it", "6 % have it", "5 % have it"],
)
def test_a_share_of_rows_without_system_message(with_system: int, without: int, severity: str | None) -> None:
    findings = shares(_rows(with_system, without)).findings()
    assert [(f.number, f.rule, f.severity, f.count) for f in findings] == (
        [(13, "missing_system", severity, without)] if severity else []
    )
    if severity:
        assert findings[0].rows[0] == with_system + 1
        assert findings[0].message.startswith(f"{without}.0% of the rows lack the system message")


def test_rows_without_user_message_are_named() -> None:
    rows = [*_rows(90, 0), *(Row(n, "x", (_system("s"), ASSISTANT)) for n in range(91, 101))]
    (finding,) = shares(rows).findings()
    assert (finding.rule, finding.severity, finding.count) == ("missing_user", "error", 10)
    (finding,) = shares(_rows(3, 0, user=False)).findings()
    assert (finding.rule, finding.severity, finding.count) == ("missing_user", "warning", 3)


@pytest.mark.parametrize(
    ("prompts", "text"), [(37, "37"), (1001, "more than 1000"), (1500, "more than 1000")]
)
def test_different_system_prompts_are_counted(prompts: int, text: str) -> None:
    rows = [Row(n, "x", (_system(str(n % prompts)), USER, ASSISTANT)) for n in range(2000)]
    (finding,) = shares(rows).findings()
    assert (finding.number, finding.severity) == (14, "info")
    assert finding.message.startswith(f"There are {text} different system prompts")
    halves = shares(rows[:1000]) + shares(rows[1000:])
    assert halves == shares(rows)


def _lengths(tokens: list[int], trained: list[int], cut: list[bool], limit: int) -> dict[str, Any]:
    numbers = np.arange(1, len(tokens) + 1)
    findings = length_findings(
        numbers,
        np.array(tokens, int),
        np.array(trained, int),
        np.array(cut, bool),
        limit,
        "raise training.maxLength",
    )
    return {finding.rule: finding for finding in findings}


@pytest.mark.parametrize(
    ("rows", "long", "cut", "severity"),
    [
        (1, 0, 0, None),
        (1, 1, 1, "error"),
        (101, 1, 0, "warning"),
        (50, 1, 0, "error"),
        (100, 1, 0, "warning"),
    ],
    ids=["all fit", "an answer is cut", "tails of under 1 %", "tails of over 1 %", "tails of 1 %"],
)
def test_rows_that_are_too_long(rows: int, long: int, cut: int, severity: str | None) -> None:
    tokens = [11] * long + [10] * (rows - long)
    found = _lengths(tokens, [5] * rows, [True] * cut + [False] * (rows - cut), 10)
    assert (found["too_long"].severity if "too_long" in found else None) == severity
    if severity:
        assert found["too_long"].rows == (1,)
        assert f"answers are cut in {cut}" in found["too_long"].message


def test_answers_of_one_token_and_the_end_token_are_too_short() -> None:
    found = _lengths([9, 9, 9, 9], [1, 2, 3, 0], [False] * 4, 10)["too_short"]
    assert (found.number, found.severity, found.rows) == (26, "warning", (1, 2))
    assert "too_short" not in _lengths([9], [3], [False], 10)


def test_percentiles_are_lengths_of_rows_and_not_mislabelled() -> None:
    tokens = np.arange(1, 101)
    assert length_stats(tokens, tokens // 2) == {
        "min": 1, "p5": 5, "p50": 50, "p95": 95, "max": 100, "total": 5050, "trained": 2500,
    }  # fmt: skip
    found = _lengths(list(range(1, 101)), [3] * 100, [False] * 100, 1000)["length_stats"]
    assert (found.number, found.severity) == (27, "info")
    assert "5 (5 %), 50 (half), 95 (95 %)" in found.message


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50))
def test_percentiles_are_ordered_lengths_that_occur(tokens: list[int]) -> None:
    stats = length_stats(np.array(tokens), np.array(tokens))
    levels = [stats[name] for name in ("min", "p5", "p50", "p95", "max")]
    assert levels == sorted(levels)
    assert set(levels) <= set(tokens)
    assert sum(value <= stats["p95"] for value in tokens) >= 0.95 * len(tokens)


def test_no_rows_have_no_lengths() -> None:
    assert _lengths([], [], [], 10) == {}
