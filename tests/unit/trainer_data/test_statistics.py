"""Intervals against published examples, and what must hold for any scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

from finetune_trainer.statistics import paired_delta, score_interval

BITS = st.sampled_from([0.0, 1.0])


def mcnemar_p(base: list[float], tuned: list[float]) -> float:
    """The exact test that the interval must agree with."""
    wins = sum(before < after for before, after in zip(base, tuned, strict=True))
    losses = sum(before > after for before, after in zip(base, tuned, strict=True))
    return float(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue)


@pytest.mark.parametrize(
    ("right", "low", "high"),
    [(127.5, 0.784, 0.898), (105, 0.622, 0.768), (75, 0.421, 0.579), (60, 0.325, 0.480)],
    ids=["85 %", "70 %", "50 %", "40 %"],
)
def test_the_score_interval_of_150_rows_is_wilsons(right: float, low: float, high: float) -> None:
    # The published table is for n = 150; 127.5 of 150 is approached by 127 and 128 within its rounding.
    interval = score_interval([1.0] * round(right) + [0.0] * (150 - round(right)))
    assert interval.low == pytest.approx(low, abs=0.005)
    assert interval.high == pytest.approx(high, abs=0.005)


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(6, 0, 0.031), (10, 2, 0.039), (20, 8, 0.036), (20, 10, 0.099)]
)
def test_exact_mcnemar_gives_the_published_values(wins: int, losses: int, p: float) -> None:
    base, tuned = [0.0] * wins + [1.0] * losses, [1.0] * wins + [0.0] * losses
    assert mcnemar_p(base + [1.0] * 100, tuned + [1.0] * 100) == pytest.approx(p, abs=0.001)
    assert (paired_delta(base + [1.0] * 100, tuned + [1.0] * 100).low > 0) == (p <= 0.05)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(BITS, BITS), min_size=1, max_size=60))
def test_a_binary_interval_leaves_out_zero_only_if_mcnemar_agrees(pairs: list[tuple[float, float]]) -> None:
    base, tuned = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    delta = paired_delta(base, tuned)
    assert -1 <= delta.low <= delta.score <= delta.high <= 1
    if delta.low > 0 or delta.high < 0:
        assert mcnemar_p(base, tuned) <= 0.05 + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_any_scores_give_an_ordered_finite_interval(pairs: list[tuple[float, float]]) -> None:
    base, tuned = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for interval in (score_interval(base), score_interval(tuned)):
        assert 0 <= interval.low <= interval.score <= interval.high <= 1
    delta = paired_delta(base, tuned)
    assert -1 <= delta.low <= delta.score <= delta.high <= 1


def test_equal_differences_still_have_a_width() -> None:
    delta = paired_delta([0.25] * 150, [0.75] * 150)
    assert delta.score == 0.5
    assert 0.4 < delta.low < 0.5 < delta.high < 0.6


def test_no_difference_at_all_includes_zero() -> None:
    delta = paired_delta([1.0, 0.0] * 40, [1.0, 0.0] * 40)
    assert delta.low < 0 == delta.score < delta.high


def test_graded_differences_are_resampled_with_a_fixed_seed() -> None:
    base, tuned = [0.1, 0.5, 0.2] * 30, [0.3, 0.5, 0.9] * 30
    assert paired_delta(base, tuned) == paired_delta(base, tuned)
    assert paired_delta(base, tuned).low == pytest.approx(0.241, abs=0.005)


@pytest.mark.parametrize(
    ("base", "tuned", "text"),
    [([], [], "no scores"), ([1.0], [1.0, 0.0], "cannot be paired"), ([float("nan")], [1.0], "not a number")],
    ids=["nothing", "different lengths", "not a number"],
)
def test_unusable_scores_are_refused(base: list[float], tuned: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        paired_delta(base, tuned)
