"""The operator dies before and after its writes; the end must be the one of a play without deaths.

A sample of the deaths: `python -m tests.faults.report` tries every one.
"""

from __future__ import annotations

import pytest

from tests.faults.campaign import Campaign, Crashes
from tests.faults.trials import SOME_CRASHES, parameters

pytestmark = [pytest.mark.apiserver, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("trial", parameters(SOME_CRASHES))
async def test_a_death_changes_nothing_but_the_time(campaign: Campaign, trial: Crashes) -> None:
    assert await campaign.violations(trial) == []
