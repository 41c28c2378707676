"""One reconcile: from the cache to the status, and what follows a refusal, a conflict and a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.core.actions import Apply, Create, Patch, Plan, Refusal
from finetune_operator.runtime.cache.arrivals import Arrivals
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.client import Object
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.observers.controllers import Decide
from finetune_operator.runtime.queue import Schedule, WorkQueue
from finetune_operator.runtime.reconciler import REFUSED_SECONDS, REWRITE_SECONDS, TOLD_SECONDS, Reconciler
from finetune_operator.runtime.resources import Key

RUN = "/apis/finetune.dev/v1alpha1/namespaces/demo/finetunejobs/run"
JOBS = "/apis/batch/v1/namespaces/demo/jobs"
KEY = Key("FineTuneJob", "demo", "run")
OWNED = {"ownerReferences": [{"uid": "uid-run", "controller": True}]}
JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "demo", **OWNED}}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def shown(refusal: Refusal | None) -> Plan:
    """A plan that wants a Job and shows a refusal of it."""
    status = {"stage": "Prepare"} if refusal is None else {"stage": refusal.message}
    return Plan((Create(JOB),), status, requeue_after=300.0)


@dataclass
class Planned:
    """A controller whose plan the test gives."""

    plan: Callable[[Refusal | None], Plan]

    async def observe(self, owner: Object) -> Decide:
        return self.plan

    def forget(self, key: Key) -> None:
        pass


class World:
    """A reconciler of one run; the queue's clock stands still, so a delay is what it says."""

    def __init__(self, api: Any, server: Any, plan: Any):
        self.server = server
        self.now = 0.0
        self.metrics = Metrics()
        self.schedule: Schedule[Key] = Schedule()
        queue = WorkQueue(lambda: 0.0, self.schedule)
        self.owners = Owners(Arrivals(lambda: 0.0))
        self.owners.put(KEY, server.put(RUN, apiVersion="finetune.dev/v1alpha1", kind="FineTuneJob"))
        self.controllers = {"FineTuneJob": Planned(plan)}
        self.recorder = Recorder(api, lambda: NOW)
        self.reconciler = Reconciler(
            api, self.owners, self.controllers, self.recorder, self.metrics, queue, lambda: self.now
        )
        self.requests: list[tuple[str, str]] = server.seen

    def results(self, result: str) -> float | None:
        """How many reconciles ended so."""
        labels = {"kind": "FineTuneJob", "result": result}
        return self.metrics.registry.get_sample_value("finetune_operator_reconciles_total", labels)

    async def reconcile(self) -> float | None:
        """One reconcile of the run; returns in how many seconds the next is due, None for never."""
        await self.reconciler.reconcile(KEY)
        due = self.schedule.next_due()
        if self.schedule.pop(1e9) is not None:
            self.schedule.done(KEY)
        return due

    @property
    def status(self) -> Any:
        return self.server.objects[RUN].get("status")


async def test_a_reconcile_reads_nothing_but_the_cache(api: Any, server: Any) -> None:
    world = World(api, server, lambda refusal: Plan((), {"stage": "Prepare"}, 300.0))
    assert await world.reconcile() == pytest.approx(0.05), "the next step follows the write"
    assert await world.reconcile() == 300.0
    assert world.requests == [("PUT", f"{RUN}/status")]


async def test_a_refusal_is_shown_by_the_plan_and_its_actions_are_not_tried_twice(
    api: Any, server: Any
) -> None:
    world = World(api, server, shown)
    server.fault("POST", JOBS, 403, "exceeded quota")
    await world.reconcile()
    assert world.status == {"stage": "The API server refuses to create Job j: exceeded quota on purpose."}
    assert world.requests == [("POST", JOBS), ("PUT", f"{RUN}/status")]
    assert world.results("refused") == 1


async def test_a_refusal_that_lasts_is_tried_less_and_less_often_and_written_once(
    api: Any, server: Any
) -> None:
    world = World(api, server, shown)
    for _ in range(4):
        server.fault("POST", JOBS, 403, "exceeded quota")
    assert [await world.reconcile() for _ in range(4)] == [0.05, 0.1, 0.2, 0.4]
    assert world.requests.count(("PUT", f"{RUN}/status")) == 1
    await world.reconcile()
    assert world.status == {"stage": "Prepare"}, "the quota was raised"


async def test_a_refusal_is_tried_again_every_minute_however_long_it_lasts(api: Any, server: Any) -> None:
    world = World(api, server, shown)
    for _ in range(20):
        server.fault("POST", JOBS, 403, "exceeded quota")
    assert [await world.reconcile() for _ in range(20)][-1] == REFUSED_SECONDS


async def test_a_refusal_of_an_object_that_changed_is_shown_soon(api: Any, server: Any) -> None:
    world = World(api, server, shown)
    for _ in range(21):
        server.fault("POST", JOBS, 403, "exceeded quota")
        server.put(RUN, **server.objects[RUN])
        delay = await world.reconcile()
    assert (world.status, delay) == (None, REWRITE_SECONDS)
    await world.reconcile()
    assert world.status == {"stage": "Prepare"}


async def test_what_fails_for_ten_seconds_is_told_and_forgotten_when_it_works(api: Any, server: Any) -> None:
    world = World(api, server, shown)
    for _ in range(2):
        server.fault("POST", JOBS, 500, "range is full")
    await world.reconcile()
    assert world.status is None
    world.now = TOLD_SECONDS
    await world.reconcile()
    assert world.status == {"stage": "The API server fails to create Job j: range is full on purpose."}
    await world.reconcile()
    assert world.status == {"stage": "Prepare"}
    server.fault("POST", JOBS, 500, "range is full")
    await world.reconcile()
    assert world.status == {"stage": "Prepare"}, "a new failure has not lasted yet"


async def test_a_name_that_is_taken_is_shown_too(api: Any, server: Any) -> None:
    world = World(api, server, shown)
    server.put(f"{JOBS}/j", kind="Job")
    await world.reconcile()
    assert world.status["stage"].startswith("Job j exists already and has no controller")


async def test_a_conflict_is_followed_by_a_live_read_and_backs_off(api: Any, server: Any) -> None:
    world = World(api, server, lambda refusal: Plan((), {"stage": "Prepare"}))
    server.put(RUN, **{**server.objects[RUN], "spec": {"suspend": True}})
    assert await world.reconcile() == 0.05
    assert world.requests == [("PUT", f"{RUN}/status"), ("GET", RUN)]
    cached = world.owners.get(KEY)
    assert cached is not None
    assert cached["spec"] == {"suspend": True}
    await world.reconcile()
    assert world.status == {"stage": "Prepare"}


async def test_an_object_that_etcd_lost_a_write_of_is_taken_as_it_now_is(api: Any, server: Any) -> None:
    world = World(api, server, lambda refusal: Plan((), {"stage": "Prepare"}))
    lost = {**server.objects[RUN]["metadata"], "resourceVersion": "9000"}
    world.owners.put(KEY, {**server.objects[RUN], "metadata": lost})
    await world.reconcile()
    await world.reconcile()
    assert world.status == {"stage": "Prepare"}


async def test_conflicts_in_a_row_back_off(api: Any, server: Any) -> None:
    gone = Patch("batch/v1", "Job", "j", {"spec": {"suspend": True}})
    world = World(api, server, lambda refusal: Plan((gone,), {"stage": "Prepare"}))
    assert [await world.reconcile() for _ in range(4)] == [0.05, 0.1, 0.2, 0.4]
    assert world.results("stale") == 4


async def test_many_conflicts_do_not_stop_the_work_for_long(api: Any, server: Any) -> None:
    """Each event of another writer may bring one, so they come as fast as he writes."""
    gone = Patch("batch/v1", "Job", "j", {"spec": {"suspend": True}})
    world = World(api, server, lambda refusal: Plan((gone,), {"stage": "Prepare"}))
    delays = [await world.reconcile() for _ in range(20)]
    assert delays[-1] == REWRITE_SECONDS


async def test_a_plan_that_never_settles_backs_off(api: Any, server: Any) -> None:
    numbers = iter(range(10))
    world = World(api, server, lambda refusal: Plan((), {"observedGeneration": next(numbers)}))
    assert [await world.reconcile() for _ in range(4)] == [0.05, 0.1, 0.2, 0.4]


async def test_a_child_that_never_stays_as_it_is_put_backs_off(api: Any, server: Any) -> None:
    server.put(f"{JOBS}/j", **JOB)
    again = Apply(JOB, uid="uid-j")
    world = World(api, server, lambda refusal: Plan((again,), requeue_after=15.0))
    assert [await world.reconcile() for _ in range(4)] == [0.05, 0.1, 0.2, 0.4]


async def test_the_server_is_left_alone_for_as_long_as_it_asks(api: Any, server: Any) -> None:
    world = World(api, server, lambda refusal: Plan((), {"stage": "Prepare"}))
    server.fault("PUT", f"{RUN}/status", 503, "ServiceUnavailable", **{"Retry-After": "20"})
    assert await world.reconcile() == 20.0
    assert world.results("error") == 1


async def test_a_bug_in_a_plan_backs_off_and_ends_nothing(api: Any, server: Any) -> None:
    def broken(refusal: Refusal | None) -> Plan:
        raise ZeroDivisionError

    world = World(api, server, broken)
    assert [await world.reconcile() for _ in range(2)] == [0.05, 0.1]


async def test_an_object_that_cannot_be_read_is_told_on_the_object(api: Any, server: Any) -> None:
    class Unreadable(Planned):
        async def observe(self, owner: Object) -> Decide:
            FineTuneJob.model_validate({"metadata": {}, "spec": {"baseModel": 3}})
            return self.plan

    world = World(api, server, shown)
    world.controllers["FineTuneJob"] = Unreadable(shown)
    await world.reconcile()
    writer = asyncio.create_task(world.recorder.run())
    await world.recorder.flushed()
    writer.cancel()
    (event,) = [body for body in server.bodies if body and body.get("kind") == "Event"]
    assert (event["reason"], "spec.baseModel" in event["message"]) == ("Unreadable", True)


async def test_an_object_that_is_gone_or_going_is_forgotten(api: Any, server: Any) -> None:
    world = World(api, server, shown)
    world.owners.remove(KEY)
    assert await world.reconcile() is None
    assert world.requests == []


async def test_a_process_that_stands_by_queues_nothing_until_it_leads(api: Any, server: Any) -> None:
    world = World(api, server, shown)
    world.reconciler.enqueue(KEY)
    assert world.schedule.next_due() is None
    world.reconciler.lead()
    assert world.schedule.next_due() == 0.0
