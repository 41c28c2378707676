"""The scenarios: each does one thing to the operator under test and returns its figures."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from benchmarks.operator.client import Client, Object, in_parallel
from benchmarks.operator.control_plane import OPERATOR, PLAIN, ControlPlane
from benchmarks.operator.objects import PLAIN_KIND, named, place, spec
from benchmarks.operator.process import LOOK_SECONDS, Running
from benchmarks.operator.stand_in import StandIn
from finetune_operator.core.manifests import suspended
from finetune_operator.runtime.resources import FINETUNEJOB, JOB, Resource

Figures = dict[str, Any]
LIMIT_SECONDS = 900
CHANGES_PER_SECOND = 50
PREFIX = "run-"


@dataclass(frozen=True)
class Arm:
    """Objects of one kind, and the user whose process makes a Job for each."""

    user: str
    kind: Resource
    spec: Object


OURS = Arm(OPERATOR, FINETUNEJOB, spec())
KOPF = Arm(PLAIN, PLAIN_KIND, {"image": "trainer:1"})


async def first_jobs(plane: ControlPlane, client: Client, arm: Arm, count: int) -> Figures:
    """Create objects as fast as the server takes them; seconds until each has a Job that may run."""
    await _one_job(client, arm)
    before = plane.requests(arm.user)
    _, version = await client.list_all(JOB, None)
    async with aclosing(client.watch(JOB, None, version)) as events, asyncio.timeout(LIMIT_SECONDS):
        start = time.monotonic()
        creating = asyncio.create_task(_create(client, arm, count))
        there: dict[str, float] = {}
        released: dict[str, float] = {}
        while len(released) < count:
            job = (await anext(events))["object"]
            if not job["metadata"]["name"].startswith(PREFIX):
                continue
            passed = time.monotonic() - start
            there.setdefault(job["metadata"]["uid"], passed)
            if not suspended(job):
                released.setdefault(job["metadata"]["uid"], passed)
        await creating
    last = max(there.values())
    return {
        "seconds": round(last, 1),
        "jobsPerSecond": round(count / last, 1),
        "releasedPerSecond": round(count / max(released.values()), 1),
        "requestsPerObject": _shares(plane.requests(arm.user) - before, count),
    }


async def under_way(plane: ControlPlane, running: Running, player: StandIn, seconds: float) -> Figures:
    """What runs cost while they train: nothing happens but that their progress grows."""
    requests, metrics = plane.requests(OPERATOR), await running.metrics()
    processor, asked, start = running.processor_seconds(), player.pods.asked, time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - start
    made, own = plane.requests(OPERATOR) - requests, await running.metrics()
    total = "finetune_operator_api_requests_total"
    return {
        "seconds": round(passed, 1),
        "requestsPerSecond": round(made.total() / passed, 1),
        "ownCountPerSecond": round((own[total] - metrics[total]) / passed, 1),
        "statusWritesPerSecond": round(made["update finetunejobs/status"] / passed, 1),
        "progressReadsPerSecond": round((player.pods.asked - asked) / passed, 1),
        "processorShare": round((running.processor_seconds() - processor) / passed, 3),
        "requests": _shares(made, passed),
        "residentMiB": running.resident_mib(),
    }


async def latency(client: Client, seconds: float) -> Figures:
    """Change specs 50 times a second; seconds from the event of a change to a status that has seen it.

    A run is changed once a second at most, so fewer than 50 runs are changed less often.
    """
    found, version = await client.list_all(FINETUNEJOB, None)
    runs = [run for run in found if run["metadata"]["name"].startswith(PREFIX)]
    rate = min(CHANGES_PER_SECOND, len(runs))
    seen = Seen(client)
    watching = asyncio.create_task(seen.follow(version))
    start, count = time.monotonic(), round(seconds * rate)
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
            group.create_task(_change(client, runs[number % len(runs)], number))
    passed = time.monotonic() - start
    async with asyncio.timeout(LIMIT_SECONDS):
        taken = sorted([await seen.taken.get() for _ in range(count)])
    watching.cancel()
    return {
        "changes": count,
        "changesPerSecond": round(count / passed, 1),
        "p50Seconds": round(taken[count // 2], 3),
        "p99Seconds": round(taken[count * 99 // 100], 3),
        "maxSeconds": round(taken[-1], 3),
    }


async def restart(client: Client, running: Running) -> Figures:
    """Seconds from the start of the process until it has reconciled every object once."""
    objects = await client.count(FINETUNEJOB)
    async with asyncio.timeout(LIMIT_SECONDS):
        while (await running.metrics()).get("finetune_operator_objects", 0.0) < objects:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
    return {"objects": objects, "seconds": round(time.monotonic() - running.started, 1)}


@dataclass
class Seen:
    """How long it took until a status had seen each generation of a run, as a watch shows both."""

    client: Client
    taken: asyncio.Queue[float] = field(default_factory=asyncio.Queue)
    _open: dict[tuple[str, int], float] = field(default_factory=dict)
    _closed: dict[str, int] = field(default_factory=dict)

    async def follow(self, version: str) -> None:
        """Take the events after `version`, until cancelled."""
        async with aclosing(self.client.watch(FINETUNEJOB, None, version)) as events:
            async for event in events:
                self._take(event["object"], time.monotonic())

    def _take(self, run: Object, now: float) -> None:
        uid, generation = run["metadata"]["uid"], run["metadata"]["generation"]
        seen = run.get("status", {}).get("observedGeneration", 0)
        if generation > seen:
            self._open.setdefault((uid, generation), now)
        for number in range(self._closed.get(uid, 1) + 1, seen + 1):
            self.taken.put_nowait(now - self._open.pop((uid, number)))
        self._closed[uid] = seen


async def _change(client: Client, run: Object, number: int) -> None:
    """Give a run another time to live, which changes nothing else while it trains."""
    body = {"spec": {"ttlSecondsAfterFinished": 100_000 + number}}
    await client.patch(FINETUNEJOB, run["metadata"]["namespace"], run["metadata"]["name"], body)


async def _one_job(client: Client, arm: Arm) -> None:
    """Wait until the process makes Jobs, so that no start-up is measured."""
    _, version = await client.list_all(JOB, None)
    await client.create(arm.kind, place(0), named(arm.kind, "warm", spec=arm.spec))
    async with aclosing(client.watch(JOB, None, version)) as events, asyncio.timeout(LIMIT_SECONDS):
        while suspended((await anext(events))["object"]):
            pass


async def _create(client: Client, arm: Arm, count: int) -> None:
    async def create(number: int) -> None:
        await client.create(arm.kind, place(number), named(arm.kind, f"{PREFIX}{number}", spec=arm.spec))

    await in_parallel(create, range(count))


def _shares(requests: Mapping[str, int], of: float) -> dict[str, float]:
    """Requests per object or second, the most frequent first, and their sum."""
    ordered = Counter(dict(requests)).most_common()
    return {"all": round(sum(requests.values()) / of, 2), **{name: round(n / of, 2) for name, n in ordered}}
