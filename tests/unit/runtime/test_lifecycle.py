"""The process: what its probes say of its watches, and what a replica does that stands by."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from finetune_operator.app import assemble
from finetune_operator.contracts.settings import parse_settings
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.process import lifecycle
from finetune_operator.runtime.process.lease import Elector, LeaseName
from finetune_operator.runtime.process.lifecycle import Process, ProcessParts
from finetune_operator.runtime.process.tasks import Supervisor
from finetune_operator.runtime.resources import Key

SETTINGS = parse_settings('{"images": {"trainer": "trainer:1", "serving": "serving:1"}}')
RUN = Key("FineTuneJob", "demo", "run")
MANIFEST = {"metadata": {"name": "run", "namespace": "demo", "uid": "u", "resourceVersion": "5"}}


async def silent(address: str, port: int, path: str) -> Mapping[str, Any] | None:
    """No pod answers."""
    return None


class Running:
    """A process against the stand-in, without kopf: the test brings what its watches would."""

    def __init__(self, parts: ProcessParts, supervisor: Supervisor):
        self.parts = parts
        self.supervisor = supervisor
        self.process = Process(parts, supervisor, "127.0.0.1", 0)

    async def probe(self, path: str) -> tuple[int, str]:
        """Status and text of a probe."""
        url = f"http://127.0.0.1:{self.process.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def until(self, path: str, text: str) -> None:
        """Wait until a probe says this."""
        async with asyncio.timeout(10):
            while text not in (await self.probe(path))[1]:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.02)

    @property
    def leads(self) -> bool:
        """What the gauge says."""
        return self.parts.metrics.registry.get_sample_value("finetune_operator_leader") == 1


def _elector(api: Any, supervisor: Supervisor) -> Elector:
    lease = LeaseName("system", "operator", "me")
    return Elector(api, lease, asyncio.get_running_loop().time, lambda: datetime.now(UTC), supervisor.fail)


@pytest.fixture
async def alone(api: Any) -> AsyncIterator[Running]:
    """One that has no rival."""
    running = Running(assemble(api, silent, SETTINGS, Metrics(), None), Supervisor())
    await running.process.start()
    yield running
    await running.process.stop()


@pytest.fixture
async def standby(api: Any, server: Any) -> AsyncIterator[Running]:
    """One that finds the Lease taken."""
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 3600, "leaseTransitions": 0}
    server.put("/apis/coordination.k8s.io/v1/namespaces/system/leases/operator", spec=spec)
    supervisor = Supervisor()
    elector = _elector(api, supervisor)
    running = Running(assemble(api, silent, SETTINGS, Metrics(), None, elector), supervisor)
    await running.process.start()
    yield running
    await running.process.stop()


async def test_it_is_ready_once_its_caches_hold_what_exists(alone: Running, server: Any) -> None:
    await alone.until("/readyz", "ok")
    assert await alone.probe("/healthz") == (200, "ok")
    async with asyncio.timeout(5):
        while not alone.leads:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.02)


async def test_it_is_not_ready_while_kopf_owes_an_object_that_the_list_shows(api: Any, server: Any) -> None:
    server.put("/apis/finetune.dev/v1alpha1/finetunejobs/run", **MANIFEST)
    running = Running(assemble(api, silent, SETTINGS, Metrics(), None), Supervisor())
    await running.process.start()
    await running.until("/readyz", "1 objects that the watches of our kinds did not bring")
    newest = server.objects["/apis/finetune.dev/v1alpha1/finetunejobs/run"]
    running.process.seen(
        "FineTuneJob", False, {**newest, "metadata": {**newest["metadata"], "deletionTimestamp": "x"}}
    )
    await running.until("/readyz", "ok")
    await running.process.stop()


async def test_a_start_that_brings_nothing_ends_with_what_is_missing(
    api: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "SYNC_SECONDS", 0.2)
    for _ in range(20):
        server.fault("GET", "/apis/batch/v1/jobs", 403, "Forbidden")
    supervisor = Supervisor()
    running = Running(assemble(api, silent, SETTINGS, Metrics(), None), supervisor)
    await running.process.start()
    async with asyncio.timeout(10):
        await supervisor.ending.wait()
    assert "jobs not listed" in (supervisor.failure or "")
    await running.process.stop()


async def test_a_start_goes_on_for_as_long_as_objects_come(
    api: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "SYNC_SECONDS", 0.01)
    looks, often = itertools.count(), asyncio.Event()

    def one_more(_: Process) -> int:
        number = next(looks)
        if number == 20:
            often.set()
        return number

    monkeypatch.setattr(Process, "_held", one_more)
    server.put("/apis/finetune.dev/v1alpha1/finetunejobs/run", **MANIFEST)
    running = Running(assemble(api, silent, SETTINGS, Metrics(), None), Supervisor())
    await running.process.start()
    async with asyncio.timeout(10):
        await often.wait()
    assert running.process.failure is None
    running.process.seen("FineTuneJob", False, server.objects["/apis/finetune.dev/v1alpha1/finetunejobs/run"])
    await running.until("/readyz", "ok")
    await running.process.stop()


async def test_workloads_that_cannot_be_listed_stop_neither_start_nor_process(
    api: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "GRACE_SECONDS", 0.1)
    group = "/apis/kueue.x-k8s.io"
    server.put(group, preferredVersion={"groupVersion": "kueue.x-k8s.io/v1beta2"})
    for _ in range(20):
        server.fault("GET", f"{group}/v1beta2/workloads", 500, "ConversionWebhookFailed")
    running = Running(assemble(api, silent, SETTINGS, Metrics(), None), Supervisor())
    await running.process.start()
    await running.until("/readyz", "ok")
    running.parts.reflectors[-1].fresh_at -= 1000
    assert ((await running.probe("/readyz"))[0], (await running.probe("/healthz"))[0]) == (200, 200)
    shown = running.parts.metrics.registry
    stale = shown.get_sample_value("finetune_operator_watch_stale_seconds", {"kind": "Workload"})
    assert stale is not None
    assert stale > 999
    assert running.leads
    await running.process.stop()


@pytest.mark.parametrize(
    ("seconds", "ready", "alive"),
    [(100.0, 200, 200), (400.0, 503, 200), (1000.0, 503, 503)],
    ids=["a quiet minute", "stale", "dead"],
)
async def test_a_watch_that_brings_nothing_is_told(
    alone: Running, seconds: float, ready: int, alive: int
) -> None:
    await alone.until("/readyz", "ok")
    alone.parts.reflectors[0].fresh_at -= seconds
    assert ((await alone.probe("/readyz"))[0], (await alone.probe("/healthz"))[0]) == (ready, alive)


async def test_a_watch_of_kopfs_that_does_not_bring_our_write_is_told(
    alone: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alone.until("/readyz", "ok")
    alone.parts.owners.arrivals.expect(RUN, "9")
    assert (await alone.probe("/readyz"))[0] == 200, "it has a minute"
    monkeypatch.setattr(lifecycle, "OVERDUE_SECONDS", -1.0)
    status, text = await alone.probe("/readyz")
    assert (status, "watch of FineTuneJob" in text) == (503, True)
    assert (await alone.probe("/healthz"))[0] == 200
    monkeypatch.setattr(lifecycle, "DEAD_SECONDS", -1.0)
    assert (await alone.probe("/healthz"))[0] == 503


async def test_a_replica_that_stands_by_is_ready_keeps_its_cache_and_decides_nothing(
    standby: Running, server: Any
) -> None:
    await standby.until("/readyz", "ok")
    standby.process.seen("FineTuneJob", False, MANIFEST)
    assert RUN in standby.parts.owners
    assert (standby.leads, len(standby.parts.reconciler.queue)) == (False, 0)
    assert [method for method, _ in server.seen if method != "GET"] == []


async def test_when_it_leads_it_looks_at_every_object(standby: Running, server: Any) -> None:
    await standby.until("/readyz", "ok")
    elector = standby.parts.elector
    assert elector is not None
    elector.leading.set()
    async with asyncio.timeout(10):
        while not standby.leads:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.02)
