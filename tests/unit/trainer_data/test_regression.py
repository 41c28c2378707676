"""Whether a tuned model holds on suites outside of the task."""

import pytest

from finetune_trainer.contracts import SuiteSpec
from finetune_trainer.grading import Grade
from finetune_trainer.scoring.regression import ALL_SUITES, SuiteResult, judge_suites
from finetune_trainer.scoring.rows import GradedRow
from finetune_trainer.statistics import Interval
from finetune_trainer.verdicts import after

BETTER = Interval(0.2, 0.1, 0.3)


def suite(name: str = "general", margin: str = "0.05") -> SuiteSpec:
    source = {"source": "configmap://general/rows.jsonl"}
    return SuiteSpec.model_validate(
        {"name": name, "dataset": source, "grader": {"name": "a", "type": "ExactMatch"}, "margin": margin}
    )


def rows(scores: list[float | None]) -> list[GradedRow]:
    return [
        GradedRow(
            f"q{n}", "", "stop", 1, None, {"a": Grade(score, None if score is None else score == 1, "")}
        )
        for n, score in enumerate(scores)
    ]


def judged(base: list[float | None], tuned: list[float | None], margin: str = "0.05") -> SuiteResult:
    given = suite(margin=margin)
    return judge_suites([given], {"general": rows(base)}, {"general": rows(tuned)})["general"]


@pytest.mark.parametrize(
    ("base", "tuned", "margin", "holds"),
    [
        pytest.param([1.0] * 60, [1.0] * 60, "0.05", True, id="equal answers"),
        pytest.param([0.0] * 60, [1.0] * 60, "0.05", True, id="better answers"),
        pytest.param([1.0] * 150, [0.0] * 15 + [1.0] * 135, "0.05", False, id="a tenth is lost"),
        pytest.param(
            [1.0] * 150, [0.0] * 15 + [1.0] * 135, "0.2", True, id="a tenth is lost, a fifth may be"
        ),
        pytest.param([1.0] * 300, [0.0] * 3 + [1.0] * 297, "0.05", True, id="one in a hundred is lost"),
        pytest.param(
            [1.0] * 50, [0.0] * 3 + [1.0] * 47, "0.05", False, id="3 of 50 are lost: too few to tell"
        ),
    ],
)
def test_a_suite_holds_when_the_bound_of_its_drop_stays_within_the_margin(
    base: list[float | None], tuned: list[float | None], margin: str, holds: bool
) -> None:
    assert judged(base, tuned, margin).holds is holds


def test_rows_that_only_one_model_was_graded_on_are_left_out_and_counted() -> None:
    result = judged([1.0, None, 1.0, 1.0], [1.0, 1.0, None, 1.0])
    assert (result.rows, result.graded, result.base, result.tuned) == (2, 0.5, 1.0, 1.0)


def test_a_suite_without_a_graded_row_holds_nothing() -> None:
    result = judged([None] * 60, [1.0] * 60)
    assert (result.holds, result.graded) == (False, 0.0)
    assert result.to_json() == {
        "rows": 0, "base": None, "tuned": None, "low": None, "margin": 0.05, "holds": False,
    }  # fmt: skip


def test_suites_with_500_rows_together_are_also_judged_as_one_with_a_margin_of_three_points() -> None:
    base, tuned = rows([1.0] * 250), rows([0.0] * 7 + [1.0] * 243)
    names = ("facts", "sums")
    found = judge_suites(
        [suite(n, "0.1") for n in names], dict.fromkeys(names, base), dict.fromkeys(names, tuned)
    )
    assert [name for name, result in found.items() if not result.holds] == [ALL_SUITES]
    assert (found[ALL_SUITES].rows, found[ALL_SUITES].margin) == (500, 0.03)


def test_few_rows_of_two_suites_are_not_judged_as_one() -> None:
    base = {name: rows([1.0] * 100) for name in ("facts", "sums")}
    assert set(judge_suites([suite("facts"), suite("sums")], base, base)) == {"facts", "sums"}


@pytest.mark.parametrize(
    ("delta", "holds", "verdict"),
    [
        pytest.param(BETTER, [True, True], "Promote", id="better, and every suite holds"),
        pytest.param(BETTER, [True, False], "Regressed", id="better, but one suite does not"),
        pytest.param(Interval(0, -0.1, 0.1), [False], "Regressed", id="no better, and a suite does not"),
        pytest.param(Interval(-0.2, -0.3, -0.1), [False], "WorseThanBase", id="worse at the task itself"),
    ],
)
def test_a_suite_that_does_not_hold_stops_the_promotion(
    delta: Interval, holds: list[bool], verdict: str
) -> None:
    assert after(delta, 0.05, 1.0, holds) == verdict
