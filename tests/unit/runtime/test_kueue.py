"""Workloads are watched where they are served, whenever that begins and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from finetune_operator.runtime.cache import kueue as module
from finetune_operator.runtime.cache import reflector as reflectors
from finetune_operator.runtime.cache.kueue import WorkloadReflector, job_of
from finetune_operator.runtime.cache.store import Store, Workloads
from finetune_operator.runtime.client import Api
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import resource_of

GROUP = "/apis/kueue.x-k8s.io"
JOB: dict[str, Any] = {"metadata": {"namespace": "demo", "name": "run-train-1", "uid": "job-1"}}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(reflectors, "FIRST_PAUSE_SECONDS", 0.001)


def workload(*, job: str = "job-1") -> dict[str, Any]:
    owner = {"kind": "Job", "name": "run-train-1", "uid": job, "controller": True}
    template = {"spec": {"containers": [{"name": "train"}]}}
    return {
        "metadata": {"ownerReferences": [owner]},
        "spec": {"active": True, "queueName": "team", "podSets": [{"template": template}]},
        "status": {"conditions": [{"type": "QuotaReserved", "status": "False"}], "requeueState": {}},
    }


def install(server: Any, version: str = "v1beta2") -> None:
    server.put(GROUP, preferredVersion={"groupVersion": f"kueue.x-k8s.io/{version}"})
    server.put(f"{GROUP}/{version}/workloads/job-run-train-1", **workload())


class Watching:
    """A reflector at work; `changes` hears of each object that came (False) or went (True)."""

    def __init__(self, api: Api, on_change: Callable[[], None]):
        self.store = Workloads()
        self.changes: asyncio.Queue[bool] = asyncio.Queue()

        def changed(_: Any, gone: bool) -> None:
            on_change()
            self.changes.put_nowait(gone)

        clock = asyncio.get_running_loop().time
        self.reflector = WorkloadReflector(api, None, self.store, changed, clock, Metrics())

    async def change(self) -> bool:
        """The next change."""
        return await asyncio.wait_for(self.changes.get(), 5)


@asynccontextmanager
async def watching(api: Api, on_change: Callable[[], None] = lambda: None) -> AsyncIterator[Watching]:
    found = Watching(api, on_change)
    task = asyncio.create_task(found.reflector.run())
    try:
        await asyncio.wait_for(found.reflector.synced.wait(), 5)
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_kueue_nothing_of_it_is_listed_and_the_store_is_complete(server: Any, api: Api) -> None:
    async with watching(api) as found:
        assert not found.store.served
        assert len(found.store) == 0
        assert {path for _, path in server.seen} == {GROUP}


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
async def test_kueue_that_is_installed_later_is_noticed_in_the_version_that_it_serves(
    server: Any, api: Api, version: str
) -> None:
    async with watching(api) as found:
        install(server, version)
        assert await found.change() is False
        assert found.store.served
        kept = found.store.of(JOB)
        assert kept is not None
        resource = resource_of(kept["apiVersion"], kept["kind"])
        assert resource.path("demo") == f"{GROUP}/{version}/namespaces/demo/workloads"
        assert kept["spec"] == {"active": True, "queueName": "team"}
        assert set(kept["status"]) == {"conditions"}


async def test_kueue_that_is_removed_takes_its_workloads_along(server: Any, api: Api) -> None:
    install(server)
    ended = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "the watch was ended"}}
    server.streams.append([ended])
    async with watching(api, server.objects.clear) as found:
        assert [await found.change(), await found.change()] == [False, True]
        assert not found.store.served
        assert found.store.of(JOB) is None


@pytest.mark.parametrize("path", [GROUP, f"{GROUP}/v1beta2/workloads"], ids=["discovery", "the list"])
async def test_workloads_that_cannot_be_listed_are_a_problem_until_they_can(
    server: Any, api: Api, path: str
) -> None:
    install(server)
    server.fault("GET", path, 403, "Forbidden")
    found = Watching(api, lambda: None)
    asking = asyncio.create_task(found.reflector.run())
    async with asyncio.timeout(5):
        while not found.store.problem:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
    assert found.store.served, "a run that names a queue is not told that there is no Kueue"
    assert found.store.problem == "Forbidden on purpose"
    await asyncio.wait_for(found.reflector.synced.wait(), 5)
    assert found.store.problem == ""
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


def test_a_workload_leads_to_the_job_of_ours_that_it_was_made_of() -> None:
    jobs = Store()
    jobs.put(JOB)
    found = workload()
    found["metadata"] |= {"namespace": "demo", "name": "job-run-train-1"}
    assert job_of(found, jobs) == JOB
    found["metadata"]["ownerReferences"][0]["uid"] = "an earlier Job of this name"
    assert job_of(found, jobs) is None
    assert job_of({"metadata": {"namespace": "demo", "name": "x"}}, jobs) is None
