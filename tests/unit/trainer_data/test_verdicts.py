"""The verdict table, row by row and at its edges."""

import pytest

from finetune_trainer.gate import verdicts
from finetune_trainer.gate.statistics import Interval


@pytest.mark.parametrize(
    ("score", "low", "high", "verdict", "blocking"),
    [
        (0.95, 0.90, 0.98, "PromptingLikelyEnough", True),
        (0.95, 0.85, 0.98, "PromptingLikelyEnough", True),
        (0.88, 0.80, 0.93, "PromptingLikelyEnough", False),
        (0.85, 0.78, 0.90, "SmallHeadroom", False),
        (0.70, 0.60, 0.80, "SmallHeadroom", False),
        (0.60, 0.52, 0.68, "GoodCandidate", False),
        (0.50, 0.42, 0.58, "GoodCandidate", False),
        (0.45, 0.37, 0.53, "Uncertain", False),
        (0.40, 0.32, 0.48, "Uncertain", False),
        (0.35, 0.28, 0.43, "CheckTaskOrData", False),
        (0.35, 0.28, 0.40, "CheckTaskOrData", False),
        (0.10, 0.05, 0.16, "CheckTaskOrData", True),
    ],
)
def test_the_base_is_judged_by_the_table(
    score: float, low: float, high: float, verdict: str, blocking: bool
) -> None:
    assert verdicts.baseline(Interval(score, low, high)) == verdicts.BaselineVerdict(verdict, blocking)


@pytest.mark.parametrize(
    ("delta", "graded", "verdict"),
    [
        (Interval(0.10, 0.02, 0.18), 1.0, "Promote"),
        (Interval(0.55 - 0.50, 0.01, 0.10), 0.98, "Promote"),
        (Interval(0.10, 0.02, 0.18), 0.97, "Ungraded"),
        (Interval(0.04, 0.01, 0.07), 1.0, "NoClearImprovement"),
        (Interval(0.10, -0.01, 0.21), 1.0, "NoClearImprovement"),
        (Interval(0.10, 0.0, 0.21), 1.0, "NoClearImprovement"),
        (Interval(-0.10, -0.20, 0.01), 1.0, "NoClearImprovement"),
        (Interval(-0.10, -0.20, -0.01), 1.0, "WorseThanBase"),
        (Interval(-0.10, -0.20, -0.01), 0.5, "Ungraded"),
    ],
    ids=[
        "clear and large", "exactly the minimum", "too few rows graded", "clear but small", "not clear",
        "interval touches zero", "probably worse", "clearly worse", "clearly worse on few rows",
    ],
)  # fmt: skip
def test_the_tuned_model_is_judged_by_the_paired_difference(
    delta: Interval, graded: float, verdict: str
) -> None:
    assert verdicts.after(delta, 0.05, graded) == verdict


@pytest.mark.parametrize(
    ("delta", "others", "verdict"),
    [
        pytest.param(
            Interval(0.10, 0.02, 0.18), [(-0.01, -0.049)], "Promote", id="a loss that is within the margin"
        ),
        pytest.param(
            Interval(0.10, 0.02, 0.18), [(-0.01, -0.05)], "Regressed", id="a loss of the margin is possible"
        ),
        pytest.param(
            Interval(0.10, 0.02, 0.18), [(0.2, 0.1), (-0.3, -0.4)], "Regressed", id="one of two got worse"
        ),
        pytest.param(
            Interval(0.01, -0.02, 0.04), [(-0.3, -0.4)], "Regressed", id="no better, and worse elsewhere"
        ),
        pytest.param(
            Interval(-0.10, -0.20, -0.01), [(-0.3, -0.4)], "WorseThanBase", id="worse by the one that decides"
        ),
    ],
)
def test_a_model_that_got_worse_elsewhere_is_not_promoted(
    delta: Interval, others: list[tuple[float, float]], verdict: str
) -> None:
    kept = [verdicts.NonInferiority(change, low, 0.05) for change, low in others]
    assert verdicts.after(delta, 0.05, 1.0, kept) == verdict


def test_a_base_that_cannot_be_graded_stops_the_run_before_it_trains() -> None:
    good = Interval(0.6, 0.5, 0.7)
    assert verdicts.baseline(good, graded=0.98) == verdicts.BaselineVerdict("GoodCandidate", blocking=False)
    assert verdicts.baseline(good, graded=0.97) == verdicts.BaselineVerdict("Ungraded", blocking=True)
