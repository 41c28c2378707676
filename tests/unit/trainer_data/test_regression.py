"""Whether a tuned model holds on suites outside of the task."""

import pytest

from finetune_trainer.contracts import EvaluationSpec, SuiteSpec
from finetune_trainer.gate.compare import SuiteResult, compare
from finetune_trainer.gate.regression import ALL_SUITES, in_summary, judge_suites
from finetune_trainer.grading import Grade
from finetune_trainer.scoring.rows import GradedRow


def suite(name: str = "general", margin: str | None = None) -> SuiteSpec:
    source = {"source": "configmap://general/rows.jsonl"}
    return SuiteSpec.model_validate(
        {
            "name": name,
            "dataset": source,
            "grader": {"name": "a", "type": "ExactMatch", "margin": margin},
        }
    )


def rows(scores: list[float | None]) -> list[GradedRow]:
    return [
        GradedRow(
            f"q{n}", "", "stop", 1, None, {"a": Grade(score, None if score is None else score == 1, "")}
        )
        for n, score in enumerate(scores)
    ]


def judged(base: list[float | None], tuned: list[float | None], margin: str | None = None) -> SuiteResult:
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
    assert (result.coverage.graded, result.coverage.rows, result.base, result.tuned) == (2, 4, 1.0, 1.0)


def test_a_suite_without_a_graded_row_holds_nothing() -> None:
    result = judged([None] * 60, [1.0] * 60)
    assert (result.holds, result.coverage.share) == (False, 0.0)
    assert in_summary({"general": result}) == {}


def lost_of_250(count: int, margins: dict[str, str | None]) -> dict[str, SuiteResult]:
    """What is said of suites with 250 rows each, of which the tuned model lost so many."""
    base, tuned = rows([1.0] * 250), rows([0.0] * count + [1.0] * (250 - count))
    suites = [suite(name, margin) for name, margin in margins.items()]
    return judge_suites(suites, dict.fromkeys(margins, base), dict.fromkeys(margins, tuned))


def test_suites_with_500_rows_together_are_also_judged_as_one_with_a_margin_of_three_points() -> None:
    found = lost_of_250(6, {"facts": None, "sums": None})
    assert [name for name, result in found.items() if not result.holds] == [ALL_SUITES]
    assert in_summary(found)[ALL_SUITES]["margin"] == 0.03
    assert in_summary(found)[ALL_SUITES]["rows"] == 500


@pytest.mark.parametrize(
    ("margins", "names"),
    [
        pytest.param({"facts": "1", "sums": "1"}, {"facts", "sums"}, id="any loss is allowed"),
        pytest.param({"facts": "0.1", "sums": None}, {"facts", "sums"}, id="one is left"),
        pytest.param({"a": "0.1", "b": "0.03", "c": None}, {"a", "b", "c", ALL_SUITES}, id="two are left"),
    ],
)
def test_suites_that_may_lose_more_are_judged_by_their_own_margin_alone(
    margins: dict[str, str | None], names: set[str]
) -> None:
    found = lost_of_250(0, margins)
    assert set(found) == names
    assert found.get(ALL_SUITES) is None or found[ALL_SUITES].coverage.rows == 500


def test_few_rows_of_two_suites_are_not_judged_as_one() -> None:
    base = {name: rows([1.0] * 100) for name in ("facts", "sums")}
    assert set(judge_suites([suite("facts"), suite("sums")], base, base)) == {"facts", "sums"}


HOLDS, LOST = judged([1.0] * 60, [1.0] * 60), judged([1.0] * 60, [0.0] * 60)


@pytest.mark.parametrize(
    ("tuned", "suites", "verdict"),
    [
        pytest.param([1.0] * 60, [HOLDS, HOLDS], "Promote", id="better, and every suite holds"),
        pytest.param([1.0] * 60, [HOLDS, LOST], "Regressed", id="better, but one suite does not"),
        pytest.param([0.5] * 60, [LOST], "Regressed", id="no better, and a suite does not"),
        pytest.param([0.0] * 60, [LOST], "WorseThanBase", id="worse at the task itself"),
        pytest.param(
            [1.0] * 60, [judged([None] * 60, [1.0] * 60)], "Ungraded", id="a suite nobody could grade"
        ),
    ],
)
def test_a_suite_that_does_not_hold_stops_the_promotion(
    tuned: list[float | None], suites: list[SuiteResult], verdict: str
) -> None:
    evaluation = EvaluationSpec.model_validate(
        {"dataset": {"source": "configmap://a/b"}, "graders": [{"name": "a", "type": "ExactMatch"}]}
    )
    assert compare(rows([0.5] * 60), rows(tuned), evaluation, suites).verdict == verdict
