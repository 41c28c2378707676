"""Statuses are written when they change something, and never again and again for nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from finetune_operator.runtime.cache.arrivals import Arrivals
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.client import ApiError
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Key
from finetune_operator.runtime.statuses import Pacer, StatusWriter, lost_fields

RUN = "/apis/finetune.dev/v1alpha1/namespaces/demo/finetunejobs/run"
KEY = Key("FineTuneJob", "demo", "run")


class World:
    """A writer whose clock the test moves."""

    def __init__(self, api: Any, server: Any):
        self.now = 0.0
        self.server = server
        self.metrics = Metrics()
        self.later: list[float] = []
        self.owners = Owners(Arrivals(lambda: self.now))
        self.writer = StatusWriter(
            api, self.owners, self.metrics, lambda: self.now, lambda key, seconds: self.later.append(seconds)
        )
        owner = server.put(RUN, apiVersion="finetune.dev/v1alpha1", kind="FineTuneJob", spec={"keep": True})
        self.owners.put(KEY, owner)

    async def write(self, status: Any) -> bool:
        """Write over what the cache holds."""
        owner = self.owners.get(KEY)
        assert owner is not None
        return await self.writer.write(KEY, owner, status)

    @property
    def puts(self) -> int:
        """How many statuses were sent."""
        return self.server.seen.count(("PUT", f"{RUN}/status"))

    def pruned(self) -> float | None:
        """The metric."""
        return self.metrics.registry.get_sample_value(
            "finetune_operator_status_pruned_total", {"kind": "FineTuneJob"}
        )


@pytest.fixture
async def world(api: Any, server: Any) -> World:
    return World(api, server)


async def test_an_equal_status_costs_no_request(world: World) -> None:
    assert await world.write({"observedGeneration": 1, "attempts": [{"number": 1}]})
    same = {"observedGeneration": 1, "attempts": ({"number": 1, "reason": None},), "stage": None}
    assert not await world.write(same)
    assert not await world.write(None)
    assert world.puts == 1


async def test_what_was_written_is_what_the_next_plan_starts_from(world: World) -> None:
    await world.write({"stage": "Train"})
    owner = world.owners.get(KEY)
    assert owner is not None
    assert (owner["status"], owner["spec"]) == ({"stage": "Train"}, {"keep": True})
    assert world.owners.arrivals.owed() == 1, "the watch has to bring it back"


async def test_an_owner_that_has_changed_is_a_conflict(world: World) -> None:
    world.server.put(RUN, **world.server.objects[RUN])
    with pytest.raises(ApiError) as caught:
        await world.write({"stage": "Train"})
    assert caught.value.status == 409


async def test_a_field_that_the_crd_lacks_is_sent_once_and_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.server.pruned.add("cost")
    with caplog.at_level(logging.WARNING):
        assert await world.write({"stage": "Train", "cost": {"spent": "1"}})
        assert not await world.write({"stage": "Train", "cost": {"spent": "1"}})
        assert await world.write({"stage": "Evaluate", "cost": {"spent": "2"}})
    assert (world.puts, world.pruned()) == (2, 2)
    (record,) = caplog.records
    assert vars(record)["fields"] == ["status.cost"]
    assert "apply its CRDs" in record.message


async def test_a_write_that_changed_nothing_says_so(world: World) -> None:
    world.server.pruned.add("advice")
    assert await world.write({"stage": "Train"})
    assert not await world.write({"stage": "Train", "advice": "new"})


async def test_progress_and_cost_wait_for_their_turn_and_everything_else_does_not(world: World) -> None:
    for number in range(3):
        await world.write({"stage": "Train", "progress": {"step": number}})
    assert (world.puts, world.later) == (2, [pytest.approx(0.1)])
    assert await world.write({"stage": "Evaluate", "progress": {"step": 3}})
    world.now = 10.0
    assert await world.write({"stage": "Evaluate", "progress": {"step": 4}})


def test_turns_are_given_in_order_and_at_the_rate() -> None:
    pacer = Pacer(per_second=10.0)
    keys = [Key("FineTuneJob", "demo", str(number)) for number in range(30)]
    assert [round(pacer.wait(key, 0.0), 1) for key in keys] == [round(n / 10, 1) for n in range(30)]
    taken = [key for key in keys if pacer.wait(key, 1.05) == 0.0]
    assert taken == keys[1:11], "the first took its turn and asks anew, behind all others"


_SENT = {"a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4, "g": 5}, {"g": 6}], "h": {"i": 1}}


@pytest.mark.parametrize(
    ("stored", "lost"),
    [
        (_SENT, set()),
        ({**_SENT, "more": 1}, set()),
        ({"a": 1, "b": {"c": 2}, "e": [{"g": 5}, {"g": 6}], "h": {"i": 1}}, {"s.b.d", "s.e[].f"}),
        ({}, {"s.a", "s.b", "s.e", "s.h"}),
    ],
    ids=["nothing", "a default was added", "nested fields", "everything"],
)
def test_lost_fields_are_named_by_their_paths(stored: Any, lost: set[str]) -> None:
    assert set(lost_fields(_SENT, stored, "s")) == lost
