"""Pods are asked beside reconciling: which, how often, and whom an answer queues."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from finetune_operator.runtime.pods import (
    MAX_BYTES,
    Answer,
    PodReader,
    Poller,
    patient_pause,
    state_pause,
    target_of,
)
from finetune_operator.runtime.resources import Key

RUN = Key("FineTuneJob", "demo", "run")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pod(
    kind: str = "FineTuneJob", *, index: str = "0", phase: str = "Running", **metadata: Any
) -> dict[str, Any]:
    labels = {"finetune.dev/kind": kind, "finetune.dev/owner": "run", "finetune.dev/uid": "u"}
    if kind == "FineTuneJob":
        labels |= {"finetune.dev/stage": "train", "batch.kubernetes.io/job-completion-index": index}
    about = {"name": "p", "namespace": "demo", "uid": "pod-uid", "labels": labels, **metadata}
    return {"metadata": about, "status": {"phase": phase, "podIP": "10.0.0.1"}}


_PODS = [
    ("rank 0 of a running stage", pod(), (8080, "/progress")),
    ("another rank", pod(index="1"), None),
    ("a pod that waits for a node", pod(phase="Pending"), None),
    ("a pod that has ended", pod(phase="Succeeded"), None),
    ("a pod that is being deleted", pod(deletionTimestamp="2026-01-01T00:00:00Z"), None),
    ("a running serving pod", pod("ModelServer"), (8001, "/state")),
    ("a pod without our labels", pod(labels={}), None),
]


@pytest.mark.parametrize(("found", "asked"), [p[1:] for p in _PODS], ids=[p[0] for p in _PODS])
def test_only_pods_that_can_answer_are_asked(found: Any, asked: tuple[int, str] | None) -> None:
    target = target_of(found)
    assert (None if target is None else (target.port, target.path)) == asked


def state(ready: bool = True, applied: int = 2, phase: str = "Ready") -> dict[str, Any]:
    return {"generation": 2, "appliedGeneration": applied, "ready": ready, "versions": [{"phase": phase}]}


@pytest.mark.parametrize(
    ("document", "seconds"),
    [
        (state(), 15.0),
        (state(phase="Failed"), 15.0),
        (state(phase="Loading"), 1.0),
        (state(phase="Draining"), 1.0),
        (state(applied=1), 1.0),
        (state(ready=False), 1.0),
        (None, 5.0),
        ({"versions": "odd"}, 1.0),
        ({**state(), "aliases": [{"targets": [{}]}]}, 15.0),
        ({**state(), "aliases": [{"targets": [{}]}, {"targets": [{}, {}]}]}, 5.0),
    ],
    ids=[
        "settled",
        "one refused",
        "loading",
        "draining",
        "behind",
        "not ready",
        "no answer",
        "nonsense",
        "one version for each alias",
        "an alias in a step of a rollout",
    ],
)
def test_a_server_is_asked_often_only_while_it_moves(document: Any, seconds: float) -> None:
    assert state_pause(document, 0) == seconds


def test_a_pod_that_was_told_of_a_new_manifest_is_asked_soon() -> None:
    assert state_pause(state(), 2) == 15.0
    assert state_pause(state(), 3) == 1.0


@pytest.mark.parametrize(
    ("silent", "reachable", "seconds"),
    [(0, True, 10), (900, True, 10), (0, False, 10), (40, False, 40), (80, False, 80), (7200, False, 600)],
    ids=[
        "just answered",
        "answered, and the clock was set",
        "the first failure",
        "silent for 40 s",
        "silent for 80 s",
        "silent for hours",
    ],
)
def test_the_longer_a_pod_is_silent_the_less_often_it_is_asked(
    silent: int, reachable: bool, seconds: float
) -> None:
    answer = Answer({}, NOW - timedelta(seconds=silent), reachable=reachable)
    assert patient_pause(10, answer, NOW) == seconds


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (Answer(), False),
        (Answer({"step": 1}, NOW, reachable=True), False),
        (Answer({"step": 1}, NOW), True),
        (Answer(None, NOW), True),
    ],
    ids=["nobody has asked", "answered", "silent since an answer", "never answered"],
)
def test_a_question_has_failed_only_if_one_was_asked(answer: Answer, failed: bool) -> None:
    assert answer.failed is failed


class Pods:
    """Answers of one pod, and a poller that asks it."""

    def __init__(self) -> None:
        self.document: Mapping[str, Any] | None = {"step": 1}
        self.asked = 0
        self.at_once = 0
        self.blocked = asyncio.Event()
        self.blocked.set()
        self.changed: asyncio.Queue[Key] = asyncio.Queue()
        self.poller = Poller(self.fetch, self.changed.put_nowait, 10.0, lambda: 0.0, lambda: NOW)

    async def fetch(self, address: str, port: int, path: str) -> Mapping[str, Any] | None:
        self.asked += 1
        self.at_once += 1
        await self.blocked.wait()
        self.at_once -= 1
        return self.document


async def until(holds: Callable[[], bool]) -> None:
    """Let the other tasks go on until this holds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)


@pytest.fixture
async def pods() -> AsyncIterator[Pods]:
    found = Pods()
    tasks = [asyncio.create_task(found.poller.work()) for _ in range(2)]
    yield found
    found.poller.close()
    found.blocked.set()
    await asyncio.gather(*tasks)


async def test_an_answer_is_kept_with_its_time_and_queues_the_owner_when_it_differs(pods: Pods) -> None:
    pods.poller.look(pod(), False)
    assert await asyncio.wait_for(pods.changed.get(), 1) == RUN
    assert pods.poller.answer(pod()) == Answer({"step": 1}, NOW, reachable=True)


async def test_a_pod_that_does_not_answer_any_more_keeps_its_last_document(pods: Pods) -> None:
    pods.poller.look(pod(), False)
    await asyncio.wait_for(pods.changed.get(), 1)
    pods.document = None
    pods.poller.look(pod(), False)
    assert await asyncio.wait_for(pods.changed.get(), 1) == RUN, "losing it is news"
    assert pods.poller.answer(pod()) == Answer({"step": 1}, NOW, reachable=False)


async def test_an_equal_answer_queues_nobody(pods: Pods) -> None:
    pods.poller.look(pod(), False)
    await asyncio.wait_for(pods.changed.get(), 1)
    pods.poller.look(pod(), False)
    await until(lambda: pods.asked == 2 and not pods.at_once)
    assert pods.changed.empty()


async def test_a_pod_that_ends_is_forgotten_even_while_it_is_asked(pods: Pods) -> None:
    pods.blocked.clear()
    pods.poller.look(pod(), False)
    await until(lambda: pods.at_once == 1)
    pods.poller.look(pod(phase="Succeeded"), False)
    pods.blocked.set()
    await until(lambda: not pods.at_once)
    assert pods.poller.answer(pod()) == Answer()
    assert pods.changed.empty()


async def test_silent_pods_keep_no_more_tasks_busy_than_there_are(pods: Pods) -> None:
    pods.blocked.clear()
    for number in range(5):
        pods.poller.look(pod(uid=str(number)), False)
    await until(lambda: pods.at_once >= 2)
    assert pods.at_once == 2


def full() -> dict[str, Any]:
    """What an agent says that holds as many adapters as a server may have, with the longest names."""
    digest = "sha256:" + "a" * 64
    names = (f"customer-{number:0>54}--{'a' * 12}" for number in range(1025))
    return {**state(), "versions": [{**HELD, "name": name, "digest": digest} for name in names]}


HELD = {"phase": "Ready", "reason": "", "message": "", "inFlight": 0, "requests": 1000, "loadSeconds": 0.04}


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (json.dumps(full()).encode(), 200, full()),
        (b'{"step": 1}', 200, {"step": 1}),
        (b'{"step": 1}', 503, None),
        (b"[1]", 200, None),
        (b"<html>", 200, None),
        (b'{"a": "' + b"x" * MAX_BYTES + b'"}', 200, None),
    ],
    ids=["a full server", "an object", "an error", "a list", "not JSON", "too large"],
)
async def test_a_pod_is_believed_only_a_small_json_object(body: bytes, status: int, expected: object) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    app = web.Application()
    app.router.add_get("/progress", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader = PodReader()
    assert await reader("127.0.0.1", runner.addresses[0][1], "/progress") == expected
    await runner.cleanup()
    assert await reader("127.0.0.1", 1, "/progress") is None
    await reader.close()
