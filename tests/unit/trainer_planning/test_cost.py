"""Money with the mission's numbers (R48 to R52)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.planning.time import Band, break_even_days, saved_per_month, training_cost


@pytest.mark.parametrize(("rate", "cost"), [(2.5, 5), (10, 20)], ids=["cheap", "dear"])
def test_two_hours_of_one_gpu_cost_five_to_twenty(rate: float, cost: float) -> None:
    assert training_cost(Band(1, 2, 4), 1, rate) == Band(cost / 2, cost, cost * 2)


@pytest.mark.parametrize(("price", "saved"), [(0.5, 1500), (1.5, 4500)])
def test_three_billion_tokens_a_month_save_1500_to_4500(price: float, saved: float) -> None:
    assert saved_per_month(1_000_000, 3000, price) == pytest.approx(saved)


@pytest.mark.parametrize(("saved", "days"), [(1500, 1.0), (4500, 1 / 3)])
def test_a_run_of_50_pays_back_within_the_first_day(saved: float, days: float) -> None:
    assert break_even_days(50, saved) == pytest.approx(days)


def test_a_run_that_saves_nothing_never_pays_back() -> None:
    assert break_even_days(50, 0) is None


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6))
def test_break_even_grows_with_the_cost(cost: float, saved: float) -> None:
    once, twice = break_even_days(cost, saved), break_even_days(cost * 2, saved)
    assert once is not None
    assert twice == pytest.approx(2 * once)
