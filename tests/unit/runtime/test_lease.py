"""Leader election: two replicas and a Lease, with clocks that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.runtime.client import ApiError
from finetune_operator.runtime.process.lease import Elector, LeaseName

LEASE = "/apis/coordination.k8s.io/v1/namespaces/system/leases/operator"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Replica:
    """An elector that is asked to look when the test wants it."""

    def __init__(self, api: Any, name: str, clock: Clock):
        self.failures: list[str] = []
        lease = LeaseName("system", "operator", name)
        self.elector = Elector(
            api, lease, clock, lambda: START + timedelta(seconds=clock()), self.failures.append
        )

    async def look(self) -> bool:
        """One round; whether it leads afterwards."""
        await self.elector.look()
        return self.leads

    @property
    def leads(self) -> bool:
        return self.elector.leading.is_set()

    def may_write(self) -> bool:
        """What the fence says."""
        try:
            self.elector.fence()
        except ApiError:
            return False
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pair(api: Any, clock: Clock) -> AsyncIterator[tuple[Replica, Replica]]:
    return Replica(api, "one", clock), Replica(api, "two", clock)


async def test_the_first_takes_a_lease_that_is_not_there_and_the_second_waits(pair: Any, server: Any) -> None:
    one, two = pair
    assert (await one.look(), await two.look()) == (True, False)
    assert (one.may_write(), two.may_write()) == (True, False)
    spec = server.objects[LEASE]["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("one", 15, 0)


async def test_the_second_leads_15_seconds_after_the_first_renewed_for_the_last_time(
    pair: Any, clock: Clock, server: Any
) -> None:
    one, two = pair
    await one.look()
    await two.look()
    clock.now = 8.0
    await one.look()
    assert not await two.look()
    clock.now = 22.0
    assert not await two.look()
    clock.now = 23.0
    assert await two.look()
    assert server.objects[LEASE]["spec"]["leaseTransitions"] == 1


async def test_a_standby_that_has_just_started_does_not_trust_old_times(pair: Any, clock: Clock) -> None:
    one, two = pair
    await one.look()
    clock.now = 1000.0
    assert not await two.look(), "the first may have renewed a moment ago"


async def test_a_leader_that_was_paused_writes_nothing_and_ends_when_it_wakes(
    pair: Any, clock: Clock
) -> None:
    one, two = pair
    await one.look()
    await two.look()
    clock.now = 10.0
    assert not one.may_write(), "5 s before the other may lead"
    clock.now = 15.0
    assert await two.look()
    assert not await one.look()
    assert (one.may_write(), two.may_write()) == (False, True)
    assert len(one.failures) == 1


async def test_a_leader_that_cannot_renew_stops_writing_first_and_ends_then(
    pair: Any, clock: Clock, server: Any
) -> None:
    one, _ = pair
    await one.look()
    for seconds in (3.0, 6.0):
        clock.now = seconds
        server.fault("GET", LEASE, 500, "InternalError")
        assert await one.look()
        assert one.may_write()
    clock.now = 11.0
    server.fault("GET", LEASE, 500, "InternalError")
    assert not await one.look()
    assert len(one.failures) == 1


async def test_a_leader_that_was_slow_goes_on_when_nobody_took_the_lease(pair: Any, clock: Clock) -> None:
    one, _ = pair
    await one.look()
    clock.now = 60.0
    assert await one.look()
    assert one.may_write()


async def test_a_released_lease_is_taken_at_the_next_look(pair: Any, clock: Clock) -> None:
    one, two = pair
    await one.look()
    await two.look()
    await one.elector.release()
    assert not one.may_write()
    clock.now = 2.0
    assert await two.look()


async def test_only_one_of_two_that_look_at_the_same_time_leads(pair: Any, clock: Clock) -> None:
    one, two = pair
    await one.look()
    await one.elector.release()
    leads = await asyncio.gather(one.look(), two.look())
    assert sorted(leads) == [False, True]
