"""A broken API server, late news, other operators and other people change nothing but the time."""

from __future__ import annotations

import pytest

from tests.faults.campaign import Attacked, Campaign
from tests.faults.trials import ATTACKS_ON_TWO, parameters

pytestmark = [pytest.mark.apiserver, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("trial", parameters(ATTACKS_ON_TWO))
async def test_an_attack_changes_nothing_but_the_time(campaign: Campaign, trial: Attacked) -> None:
    assert await campaign.violations(trial) == []
