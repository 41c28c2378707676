"""Intervals against published examples, and what must hold for any scores."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from finetune_trainer.gate.statistics import (
    count_groups,
    paired_delta,
    paired_lower_bound,
    paired_test,
    score_interval,
)

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


@pytest.mark.parametrize(("right", "rows"), [(0, 1), (1, 1), (0, 50), (7, 20), (149, 150), (150, 150)])
def test_the_score_interval_is_that_of_statsmodels(right: int, rows: int) -> None:
    interval = score_interval([1.0] * right + [0.0] * (rows - right))
    expected = proportion_confint(right, rows, method="wilson")
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(6, 0, 0.031), (10, 2, 0.039), (20, 8, 0.036), (20, 10, 0.099)]
)
def test_exact_mcnemar_gives_the_published_values(wins: int, losses: int, p: float) -> None:
    base, tuned = [0.0] * wins + [1.0] * losses, [1.0] * wins + [0.0] * losses
    assert mcnemar_p(base + [1.0] * 100, tuned + [1.0] * 100) == pytest.approx(p, abs=0.001)
    assert (paired_delta(base + [1.0] * 100, tuned + [1.0] * 100).low > 0) == (p <= 0.05)
    test = paired_test(base + [1.0] * 100, tuned + [1.0] * 100)
    assert (test.p_value, test.name) == (pytest.approx(p, abs=0.001), "exact McNemar")


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
    assert paired_delta(base, tuned).low == pytest.approx(0.239, abs=0.005)  # the normal one


def repeated(values: list[float], times: int) -> tuple[list[float], list[str]]:
    """Each value as a group of so many equal rows."""
    rows = [value for value in values for _ in range(times)]
    return rows, [f"g{place}" for place in range(len(values)) for _ in range(times)]


def test_groups_of_equal_rows_say_no_more_than_one_row_each() -> None:
    base, tuned = [0.0, 1.0] * 15, [1.0] * 19 + [0.0] * 11
    many_base, groups = repeated(base, 5)
    many_tuned, _ = repeated(tuned, 5)
    alone, grouped = paired_delta(base, tuned), paired_delta(many_base, many_tuned, groups)
    as_rows = paired_delta(many_base, many_tuned)
    assert grouped.score == pytest.approx(alone.score)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, abs=0.05)
    assert as_rows.high - as_rows.low < 0.6 * (grouped.high - grouped.low)
    score = score_interval(many_tuned, groups)
    assert score.high - score.low > 1.5 * (score_interval(many_tuned).high - score_interval(many_tuned).low)


@pytest.mark.parametrize("groups", [2, 3, 4, 5])
def test_fewer_than_six_groups_show_no_difference(groups: int) -> None:
    tuned, names = repeated([0.9, 0.95, 0.85, 0.92, 0.88][:groups], 30)
    base = [0.1] * len(tuned)
    delta = paired_delta(base, tuned, names)
    assert delta.low <= 0 < delta.score
    assert paired_test(base, tuned, names).p_value == pytest.approx(2 ** (1 - groups))


def test_six_groups_that_all_win_show_a_difference_as_six_wins_do() -> None:
    tuned, names = repeated([0.9, 0.95, 0.85, 0.92, 0.88, 0.91], 25)
    base = [0.1] * len(tuned)
    test = paired_test(base, tuned, names)
    assert (test.p_value, test.name) == (pytest.approx(0.031, abs=0.001), "sign-flip by group")
    assert 0 < paired_delta(base, tuned, names).low <= 0.75


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from("abcdefgh")), min_size=1, max_size=40
    ),
    st.randoms(use_true_random=False),
)
def test_an_interval_depends_on_no_order_and_agrees_with_the_test(
    rows: list[tuple[float, float, str]], random: Random
) -> None:
    shuffled = random.sample(rows, len(rows))
    columns, others = list(zip(*rows, strict=True)), list(zip(*shuffled, strict=True))
    delta = paired_delta(*columns)  # type: ignore[arg-type]
    assert delta == paired_delta(*others)  # type: ignore[arg-type]
    if delta.low > 0 or delta.high < 0:
        assert paired_test(*columns).p_value <= 0.05  # type: ignore[arg-type]


def test_rows_without_a_group_are_groups_of_one() -> None:
    base, tuned = [0.0] * 8 + [1.0] * 30, [1.0] * 36 + [0.0] * 2
    assert paired_delta(base, tuned, [None] * 38) == paired_delta(base, tuned)
    assert count_groups([None, "a", None, "a", "b"]) == 4


@pytest.mark.parametrize(
    ("losses", "wins", "low"),
    [
        pytest.param(0, 0, 0.0, id="no row differs"),
        pytest.param(0, 9, 0.06, id="rows were won only"),
        pytest.param(7, 7, -0.041, id="as many lost as won"),
    ],
)
def test_the_lower_bound_is_one_sided(losses: int, wins: int, low: float) -> None:
    # 150 rows; 1.645 * sqrt(14 / 150 / 150) = 4.1 points is the normal bound of the last case.
    base = [1.0] * losses + [0.0] * wins + [1.0] * (150 - losses - wins)
    tuned = [0.0] * losses + [1.0] * wins + [1.0] * (150 - losses - wins)
    assert paired_lower_bound(base, tuned) == pytest.approx(low, abs=0.005)


@pytest.mark.parametrize(("rows", "below"), [(150, 0.042), (300, 0.030), (500, 0.023), (1000, 0.016)])
def test_with_a_tenth_of_the_rows_changed_the_bound_is_as_published(rows: int, below: float) -> None:
    changed = rows // 20
    base = [1.0] * changed + [0.0] * changed + [1.0] * (rows - 2 * changed)
    tuned = [0.0] * changed + [1.0] * changed + [1.0] * (rows - 2 * changed)
    assert paired_lower_bound(base, tuned) == pytest.approx(-below, abs=0.0025)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_the_lower_bound_of_shares_is_finite_and_below_the_mean(wins: int, losses: int, same: int) -> None:
    rows = max(1, wins + losses + same)
    base = [0.0] * wins + [1.0] * losses + [1.0] * (rows - wins - losses)
    tuned = [1.0] * wins + [0.0] * losses + [1.0] * (rows - wins - losses)
    assert -1 <= paired_lower_bound(base, tuned) <= (wins - losses) / rows + 1e-9


def test_many_rows_take_seconds_and_little_memory() -> None:
    base = [0.25, 0.5, 0.75, 0.125] * 3_000
    tuned = [0.5, 0.5, 0.75, 0.25] * 3_000
    assert paired_delta(base, tuned).low == pytest.approx(0.0919, abs=0.001)


@pytest.mark.parametrize(
    ("base", "tuned", "text"),
    [([], [], "no scores"), ([1.0], [1.0, 0.0], "cannot be paired"), ([float("nan")], [1.0], "not a number")],
    ids=["nothing", "different lengths", "not a number"],
)
def test_unusable_scores_are_refused(base: list[float], tuned: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        paired_delta(base, tuned)
