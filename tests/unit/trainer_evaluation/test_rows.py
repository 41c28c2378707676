"""Which rows a person is shown, in which order, and what could explain them."""

from dataclasses import replace

import pytest

from finetune_trainer.data.corpus.related import Related
from finetune_trainer.data.findings import Finding
from finetune_trainer.evaluation import rows
from finetune_trainer.evaluation.document import Cut, RelatedRow, RowFinding
from finetune_trainer.judging.pairwise import equal_answers
from tests.unit.trainer_evaluation.builders import PRIMARY, pair

NOWHERE = Finding(28, "too_few", "warning", 12, (), "12 rows")
CONTRADICTED = Finding(34, "contradiction", "error", 2, (7, 9), "rows 7 and 9 contradict each other")
LEAKED = Finding(37, "leak_near", "warning", 1, (2,), "row 2 is like a training row", "holdout")


@pytest.mark.parametrize(
    ("base", "tuned", "outcome"),
    [
        pytest.param(1.0, 0.5, "loss", id="a lower score is a loss"),
        pytest.param(0.0, 0.5, "win", id="a higher score is a win, also when it is no full mark"),
        pytest.param(0.5, 0.5, "wrong", id="the same part of the marks is still wrong"),
        pytest.param(1.0, 1.0, "right", id="full marks twice are still right"),
        pytest.param(None, 1.0, "ungraded", id="a base that could not be graded leaves the row ungraded"),
        pytest.param(1.0, None, "ungraded", id="a tuned model that could not be graded does too"),
    ],
)
def test_how_a_row_went(base: float | None, tuned: float | None, outcome: str) -> None:
    [judged] = rows.judge([pair("a", base, tuned)], PRIMARY)
    assert judged.outcome == outcome


def test_answers_of_which_neither_is_better_are_a_tie_and_not_wrong() -> None:
    even = {PRIMARY: equal_answers().tuned}
    both = pair("a", 0.5, 0.5)
    tie = replace(both, base=replace(both.base, grades=even), tuned=replace(both.tuned, grades=even))
    judged = rows.judge([tie, both], PRIMARY)
    assert [row.outcome for row in judged] == ["tie", "wrong"]
    assert rows.counts(judged)["tie"] == 1


def test_losses_come_first_and_the_largest_loss_before_all() -> None:
    pairs = [
        pair("right", 1.0, 1.0), pair("small loss", 1.0, 0.5), pair("win", 0.0, 1.0), pair("wrong", 0.0, 0.0),
        pair("large loss", 1.0, 0.0), pair("ungraded", 1.0, None),
    ]  # fmt: skip
    judged = rows.judge(pairs, PRIMARY)
    shown = rows.shown(pairs, rows.worst(judged), PRIMARY, {}, ())
    assert [row.id for row in shown] == ["large loss", "small loss", "ungraded", "wrong", "win", "right"]
    assert rows.counts(judged) == {"loss": 2, "ungraded": 1, "wrong": 1, "tie": 0, "win": 1, "right": 1}


def test_of_many_rows_of_one_kind_the_first_hundred_are_shown() -> None:
    pairs = [*(pair(f"w{place}", 0.0, 1.0) for place in range(300)), pair("lost", 1.0, 0.0)]
    chosen = rows.worst(rows.judge(pairs, PRIMARY))
    assert [row.place for row in chosen] == [300, *range(100)]


def test_a_row_names_the_training_rows_like_it_and_the_findings_about_them() -> None:
    pairs = [pair("a", 1.0, 0.0), pair("b", 1.0, 0.0)]
    related = {"a": Related("a", 1, ((9, 0.81), (30, 0.5))), "b": Related("b", 2)}
    chosen = rows.worst(rows.judge(pairs, PRIMARY))
    first, second = rows.shown(pairs, chosen, PRIMARY, related, (NOWHERE, CONTRADICTED, LEAKED))
    assert first.related == (RelatedRow(row=9, similarity=0.81), RelatedRow(row=30, similarity=0.5))
    assert first.findings == (RowFinding(rule="contradiction", number=34, dataset="train", rows=(9,)),)
    assert (second.row, second.related) == (2, ())
    assert second.findings == (RowFinding(rule="leak_near", number=37, dataset="holdout", rows=(2,)),)


@pytest.mark.parametrize("length", [0, 1500, 1501, 100_000])
def test_a_text_is_cut_in_its_middle_and_says_by_how_much(length: int) -> None:
    text = "".join(chr(97 + place % 26) for place in range(length))
    shown = rows.cut(text)
    assert len(shown.head) + len(shown.tail) + shown.left_out == length
    assert text.startswith(shown.head)
    assert text.endswith(shown.tail)
    assert len(shown.head + shown.tail) <= 1500


def test_the_figures_about_answers_leave_out_those_that_never_came() -> None:
    timed = [rows.Timed(seconds, 10, "stop") for seconds in (1.0, 2.0, 3.0)]
    told = rows.answers([*timed, rows.Timed(9.0, 40, "length"), rows.Timed(None, 0, None)])
    assert (told.seconds, told.slow_seconds, told.tokens, told.cut) == (3.0, 3.0, 17.5, 1)
    nothing = rows.answers([])
    assert (nothing.seconds, nothing.tokens, nothing.cut) == (None, 0.0, 0)


def test_an_answer_that_never_came_is_shown_with_its_reason() -> None:
    pairs = [pair("a", 1.0, None, output=None)]
    [row] = rows.shown(pairs, rows.worst(rows.judge(pairs, PRIMARY)), PRIMARY, {}, ())
    assert (row.tuned.output, row.tuned.reason) == (None, "cannot be graded")
    assert row.base.output == Cut(head="that")
