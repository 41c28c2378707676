"""Every scenario undisturbed: it comes to its end, and then nothing is written any more."""

from __future__ import annotations

import pytest

from tests.faults.campaign import Campaign, Undisturbed
from tests.faults.trials import UNDISTURBED, parameters

pytestmark = [pytest.mark.apiserver, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("trial", parameters(UNDISTURBED))
async def test_it_comes_to_its_end_and_to_rest(campaign: Campaign, trial: Undisturbed) -> None:
    assert await campaign.violations(trial) == []
