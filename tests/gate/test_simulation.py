"""The gate's error rates: few runs, and with `long` the 2,000 of docs/evaluation.md."""

import pytest

from tests.gate.report import BASE, PAGE, measurements, tables
from tests.gate.simulation import Holdout, measure, measure_kept

FEW = 200


@pytest.mark.parametrize(
    "holdout",
    [
        pytest.param(Holdout(50), id="50 rows"),
        pytest.param(Holdout(150, size=5), id="30 groups of 5 equal rows"),
        pytest.param(Holdout(60, size=10, alike=0.7), id="6 groups of 10 rows that are alike"),
    ],
)
def test_a_model_as_good_as_its_base_is_rarely_promoted(holdout: Holdout) -> None:
    found = measure(holdout, BASE, FEW)
    assert found.promoted <= 0.05
    if found.power is not None:
        assert found.power == pytest.approx(0.8, abs=0.08)


def test_groups_that_are_not_known_would_promote_many_models_that_are_no_better() -> None:
    assert measure(Holdout(150, size=5), BASE, FEW).ignored > 0.15


@pytest.mark.parametrize(("rows", "differing"), [(50, 0.10), (150, 0.10)])
def test_a_loss_of_the_margin_is_rarely_let_through(rows: int, differing: float) -> None:
    assert measure_kept(rows, differing, FEW).lost <= 0.05 + 0.02


@pytest.mark.long
def test_the_page_shows_what_is_measured_and_the_stated_error_rates_hold() -> None:
    measured, kept = measurements()
    assert tables(measured, kept) in PAGE.read_text()
    assert max(found.promoted for found in measured) <= 0.05
    stated = [found.power for found in measured if found.power is not None and found.holdout.alike == 1]
    assert stated == [pytest.approx(0.8, abs=0.03)] * len(stated)
    assert max(found.lost for found in kept) <= 0.06
