"""What a hold-out can show: published numbers of rows, and the power of the exact test."""

import pytest

from finetune_trainer.gate.power import POWER, detectable, differing_share, power, rows_needed


@pytest.mark.parametrize(
    ("effect", "differing", "rows"),
    [
        pytest.param(0.10, 0.20, 150, id="ten points with 20 % differing"),
        pytest.param(0.05, 0.15, 464, id="five points with 15 % differing"),
        pytest.param(0.03, 0.11, 961, id="three points with 11 % differing"),
        pytest.param(0.35, 0.40, 18, id="from 60 to 95 %"),
    ],
)
def test_the_formula_gives_the_published_numbers_of_rows(effect: float, differing: float, rows: int) -> None:
    assert rows_needed(effect, differing) == pytest.approx(rows, rel=0.011)


@pytest.mark.parametrize(
    ("groups", "base", "effect"),
    [
        pytest.param(150, 0.5, 0.166, id="150 rows and a base that is right half of the time"),
        pytest.param(150, 0.1, 0.124, id="150 rows and a weak base"),
        pytest.param(50, 0.1, 0.246, id="50 rows and a weak base"),
        pytest.param(500, 0.7, 0.080, id="500 rows and a good base"),
        pytest.param(6, 0.0, 0.964, id="six rows show a model that is always right"),
        pytest.param(5, 0.0, None, id="five rows show nothing"),
        pytest.param(150, 0.95, None, id="a base with too little room above it"),
        pytest.param(150, 1.0, None, id="a base that is always right"),
    ],
)
def test_the_detectable_effect_has_a_power_of_80_percent(
    groups: int, base: float, effect: float | None
) -> None:
    found = detectable(groups, base)
    assert found == (None if effect is None else pytest.approx(effect, abs=0.001))
    if found is not None:
        assert power(groups, base, found) == pytest.approx(POWER, abs=0.002)


def test_a_normal_formula_would_promise_more_than_few_rows_keep() -> None:
    assert rows_needed(0.26, differing_share(0.5, 0.26)) <= 51
    assert power(50, 0.5, 0.26) < 0.72
