"""How often the analysis is wrong, played with versions whose true quality is known (docs/rollouts.md)."""

from __future__ import annotations

import pytest

from tests.unit.canary.simulation import INCREASE, OLD, RATE, SIZES, SLOWER, Outcome, Quality, Trial

GOOD = [
    pytest.param(OLD, RATE, id="1 % fail and 2 % may"),
    pytest.param(OLD, INCREASE, id="as many fail as before"),
    pytest.param(OLD, SLOWER, id="as fast as before"),
]
BAD = [
    pytest.param(Quality(errors=0.1), RATE, id="10 % fail and 2 % may"),
    pytest.param(Quality(errors=0.12), INCREASE, id="12 % fail where 1 % failed"),
    pytest.param(Quality(seconds=6.0), SLOWER, id="three times as slow"),
]


def _share(trial: Trial, outcome: Outcome, rollouts: int) -> float:
    return trial.outcomes(rollouts, seed=11)[outcome] / rollouts


@pytest.mark.parametrize(("after", "limits"), GOOD)
def test_noise_neither_ends_nor_holds_up_a_good_version(
    after: Quality, limits: tuple[tuple[str, str], ...]
) -> None:
    assert _share(Trial(OLD, after, limits, requests=100), "Promoted", 30) >= 0.95


@pytest.mark.parametrize(("after", "limits"), BAD)
def test_a_bad_version_is_rolled_back_and_not_promoted_by_luck(
    after: Quality, limits: tuple[tuple[str, str], ...]
) -> None:
    assert _share(Trial(OLD, after, limits, requests=100), "RolledBack", 30) >= 0.95


AT_THE_LIMIT = [
    pytest.param(Quality(errors=0.02), RATE, id="error rate"),
    pytest.param(Quality(errors=0.03), INCREASE, id="increase of the error rate"),
    pytest.param(Quality(seconds=3.0), SLOWER, id="latency"),
]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("requests", SIZES)
@pytest.mark.parametrize(("after", "limits"), AT_THE_LIMIT)
def test_a_version_exactly_at_its_limit_is_seldom_rolled_back(
    after: Quality, limits: tuple[tuple[str, str], ...], requests: int
) -> None:
    """The worst case of a version that keeps its limit: one that is better is rolled back less often."""
    assert _share(Trial(OLD, after, limits, requests), "RolledBack", 200) <= 0.15
