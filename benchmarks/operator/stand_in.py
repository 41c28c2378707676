"""A stand-in for what an API server alone lacks: Job controller, garbage collector, scheduler and kubelets.

Every Job of ours that is not suspended gets a pod. Stages end at once with a result, but training, which goes
on and serves a progress that changes every ten seconds. The run SAMPLE does not stay in training, and what
belongs to its copies has been played already.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web

from benchmarks.operator.client import Client, Object
from benchmarks.operator.objects import named, node_name
from finetune_operator.core.manifests import JOB_LABEL, finished, suspended
from finetune_operator.runtime.resources import JOB, MANAGED_BY, POD
from tests.unit.stages.kubernetes_simulation import result_of

PROGRESS_PORT = 8080
PROGRESS_SECONDS = 10
ADDRESSES = 100
WORKERS = 8
LIMIT_SECONDS = 900
SAMPLE, COPY = "goes-through", "copy"
INDEX = {"batch.kubernetes.io/job-completion-index": "0"}


class Pods:
    """Serves /progress on addresses of the loopback network, as many pods on each as there have to be."""

    def __init__(self) -> None:
        network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"  # another benchmark may run
        self._addresses = [f"{network}.{number}" for number in range(1, ADDRESSES + 1)]
        self._start = time.monotonic()
        self.asked = 0

    def address(self, number: int) -> str:
        """The address of a pod."""
        return self._addresses[number % ADDRESSES]

    async def serve(self) -> web.AppRunner:
        """Listen until the runner is cleaned up."""
        app = web.Application()
        app.router.add_get("/progress", self._progress)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        for address in self._addresses:
            await web.TCPSite(runner, address, PROGRESS_PORT).start()
        return runner

    async def _progress(self, _: web.Request) -> web.Response:
        self.asked += 1
        step = int((time.monotonic() - self._start) / PROGRESS_SECONDS)
        document = {"schemaVersion": 1, "stage": "train", "step": step, "totalSteps": 1000}
        numbers = {"fraction": step / 1000, "loss": 2.0 - step / 1000, "tokensPerSecond": 290.0 + step % 7}
        return web.json_response({**document, **numbers, "etaSeconds": 36000, "message": "training"})


class StandIn:
    """Plays every Job once."""

    def __init__(self, client: Client, pods: Pods):
        self.pods = pods
        self._client = client
        self._training = asyncio.Semaphore(0)
        self._begun: set[str] = set()
        self._numbers = itertools.count()
        self._due: asyncio.Queue[Object] = asyncio.Queue()

    async def run(self) -> None:
        """Follow the Jobs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())
            group.create_task(self._follow())

    async def all_train(self, runs: int) -> None:
        """Wait until so many runs have begun to train."""
        async with asyncio.timeout(LIMIT_SECONDS):
            for _ in range(runs):
                await self._training.acquire()

    async def _follow(self) -> None:
        jobs, version = await self._client.list_all(JOB, None, MANAGED_BY)
        for job in jobs:
            self._due.put_nowait({"type": "ADDED", "object": job})
        async with aclosing(self._client.watch(JOB, None, version, MANAGED_BY)) as events:
            async for event in events:
                self._due.put_nowait(event)

    async def _work(self) -> None:
        while True:
            event = await self._due.get()
            job, metadata = event["object"], event["object"]["metadata"]
            if event["type"] == "DELETED":
                await self._client.delete_now(POD, metadata["namespace"], _pod_name(job))
            elif self._is_due(job):
                self._begun.add(metadata["uid"])
                await self._play(job)

    def _is_due(self, job: Object) -> bool:
        copied = job["metadata"]["labels"]["finetune.dev/owner"].startswith(COPY)
        begun = copied or job["metadata"]["uid"] in self._begun
        return not (begun or suspended(job) or finished(job))

    async def _play(self, job: Object) -> None:
        namespace, number = job["metadata"]["namespace"], next(self._numbers)
        labels = job["metadata"]["labels"]
        stage, owner = labels["finetune.dev/stage"], labels["finetune.dev/owner"]
        goes_on = stage == "train" and owner != SAMPLE
        state = _running(self.pods.address(number)) if goes_on else _succeeded(job, stage)
        ended = _under_way() if goes_on else _complete()
        await self._client.create(POD, namespace, _pod(job, node_name(number)))
        await self._client.patch(POD, namespace, _pod_name(job), {"status": state}, "status")
        await self._client.patch(JOB, namespace, job["metadata"]["name"], {"status": ended}, "status")
        if goes_on:
            self._training.release()


@asynccontextmanager
async def standing_in(client: Client) -> AsyncIterator[StandIn]:
    """Both parts, until the end of the block; a failure of theirs ends it."""
    pods = Pods()
    runner, player = await pods.serve(), StandIn(client, pods)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(player.run())
            yield player
            task.cancel()
    finally:
        await runner.cleanup()


def _pod_name(job: Object) -> str:
    return f"{job['metadata']['name']}-0"


def _pod(job: Object, node: str) -> Object:
    metadata, template = job["metadata"], job["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    labels = {**template["metadata"]["labels"], JOB_LABEL: metadata["name"], **INDEX}
    about = {"labels": labels, "ownerReferences": [{**owner, "controller": True}]}
    pod = named(POD, _pod_name(job), spec={**template["spec"], "nodeName": node})
    pod["metadata"] |= about
    return pod


def _running(address: str) -> Object:
    started = {"running": {"startedAt": _now()}}
    return {
        **_placed("Running"),
        "podIP": address,
        "podIPs": [{"ip": address}],
        **_container("train", started),
    }


def _succeeded(job: Object, stage: str) -> Object:
    name = job["spec"]["template"]["spec"]["containers"][0]["name"]
    times = {"startedAt": _now(), "finishedAt": _now()}
    ended = {"exitCode": 0, "reason": "Completed", "message": result_of(stage), **times}
    return {**_placed("Succeeded"), **_container(name, {"terminated": ended})}


def _placed(phase: str) -> Object:
    kinds = ("PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": _now()} for kind in kinds]
    return {"phase": phase, "startTime": _now(), "conditions": conditions}


def _container(name: str, state: Object) -> Object:
    known = {"name": name, "image": "trainer:1", "imageID": "", "restartCount": 0}
    return {"containerStatuses": [{**known, "ready": "running" in state, "started": True, "state": state}]}


def _under_way() -> Object:
    return {"startTime": _now(), "active": 1, "ready": 1}


def _complete() -> Object:
    """What the API server's validation asks of a Job that is Complete."""
    common = {"status": "True", "lastProbeTime": _now(), "lastTransitionTime": _now(), "reason": "Done"}
    conditions = [{**common, "type": kind, "message": ""} for kind in ("SuccessCriteriaMet", "Complete")]
    times = {"startTime": _now(), "completionTime": _now()}
    return {
        **times,
        "active": 0,
        "ready": 0,
        "succeeded": 1,
        "completedIndexes": "0",
        "conditions": conditions,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
