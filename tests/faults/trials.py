"""Which plays `make test` takes, and which the report adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.faults.attacks import ATTACKS
from tests.faults.campaign import Attacked, Crashes, Trial, Undisturbed
from tests.faults.scenarios import runs, servers
from tests.faults.scenarios.scenario import USUAL_SECONDS

SCENARIOS = (*runs.SCENARIOS, *servers.SCENARIOS)
ATTACKED = ("training crashes once", "an adapter rolls and rolls back")
"""The scenarios that meet every attack in `make test`: one with two attempts, one with three manifests."""

UNDISTURBED = tuple(
    Undisturbed(scenario)
    for scenario in sorted(SCENARIOS, key=lambda scenario: scenario.limit_seconds, reverse=True)
)
# Scenarios that wait for a deadline take minutes; their deaths are played by the report.
SOME_CRASHES = tuple(
    Crashes(scenario, sample=2, turn=turn)
    for turn, scenario in enumerate(SCENARIOS)
    if scenario.limit_seconds <= USUAL_SECONDS
)
ALL_CRASHES = tuple(Crashes(scenario) for scenario in SCENARIOS)
ATTACKS_ON_TWO = tuple(
    Attacked(scenario, attack) for scenario in SCENARIOS if scenario.name in ATTACKED for attack in ATTACKS
)
ATTACKS_ON_ALL = tuple(
    Attacked(scenario, attack)
    for scenario in SCENARIOS
    if scenario.name not in ATTACKED
    for attack in ATTACKS
)


def parameters(trials: Sequence[Trial]) -> list[Any]:
    """Trials as parameters of a test, with sentences as ids."""
    return [pytest.param(trial, id=trial.title) for trial in trials]
