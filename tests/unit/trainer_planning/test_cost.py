"""Money with the mission's numbers (R48 to R53)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.planning.cost import (
    Attempt,
    Budget,
    Price,
    Serving,
    break_even_days,
    break_even_text,
    judge_cost,
    over_budget,
    saved_per_month,
    self_host_crossover,
    spent,
    training_cost,
)
from finetune_trainer.planning.time import Band


@pytest.mark.parametrize(("rate", "cost"), [(2.5, 5), (10, 20)], ids=["cheap", "dear"])
def test_two_hours_of_one_gpu_cost_five_to_twenty(rate: float, cost: float) -> None:
    assert training_cost(Band(1, 2, 4), 1, rate) == Band(cost / 2, cost, cost * 2)


@pytest.mark.parametrize(("price", "saved"), [(0.5, 1500), (1.5, 4500)])
def test_three_billion_tokens_a_month_save_1500_to_4500(price: float, saved: float) -> None:
    assert saved_per_month(1_000_000, 3000, price) == pytest.approx(saved)


@pytest.mark.parametrize(("saved", "days"), [(1500, 1.0), (4500, 1 / 3)])
def test_a_run_of_50_pays_back_within_the_first_day(saved: float, days: float) -> None:
    assert break_even_days(50, saved) == pytest.approx(days)


@pytest.mark.parametrize(("saved", "extra"), [(100, 100), (100, 200), (0, 0), (-5, 0)])
def test_a_run_that_saves_nothing_never_pays_back(saved: float, extra: float) -> None:
    assert break_even_days(50, saved, extra) is None
    assert "never pays back" in break_even_text(50, saved, extra)


def test_the_sentence_names_the_days() -> None:
    assert break_even_text(50, 1500) == "The run pays back after 1.0 days."


def test_longer_answers_count_against_shorter_prompts() -> None:
    assert saved_per_month(1000, 100, 10, added_output_tokens=150) == pytest.approx(-0.5)


def test_spot_jobs_pay_the_spot_price_where_there_is_one() -> None:
    price = Price(4.0, "USD", 1.5)
    assert (price.rate(spot=True), price.rate(spot=False)) == (1.5, 4.0)
    assert Price(4.0, "USD").rate(spot=True) == 4.0
    assert Price(4.0, "USD", 0.0).rate(spot=True) == 0.0


def test_lost_work_was_paid_for() -> None:
    preempted = Attempt(seconds=3600, gpus=4, rate=2.0, lost_seconds=300)
    paid = spent([preempted, Attempt(1800, 4, 2.0), Attempt(3600, 0, 2.0)], judge=judge_cost(500_000, 3.0))
    assert (paid.gpus, paid.lost, paid.judge, paid.total) == (12.0, pytest.approx(8 / 12), 1.5, 13.5)


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [(100, "Within"), (16, "Within"), (12, "MayExceed"), (10, "MayExceed"), (9, "Exceeds")],
)
def test_the_expected_cost_decides_and_the_high_bound_warns(limit: float, verdict: Budget) -> None:
    assert over_budget(Band(6, 10, 16), limit) == verdict


def test_from_which_volume_own_gpus_are_cheaper() -> None:
    assert self_host_crossover(Serving(2, 2.0, 0.0001)) == pytest.approx(960_000)
    assert self_host_crossover(Serving(2, 2.0, 0.0001, 0.0001)) is None


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6), st.floats(0, 1e6))
def test_break_even_grows_with_cost_and_extra_serving(cost: float, saved: float, extra: float) -> None:
    days = break_even_days(cost, saved, extra)
    assert (days is None) == (saved <= extra)
    if days is not None:
        longer = break_even_days(cost * 2, saved, extra)
        assert longer == pytest.approx(2 * days)
