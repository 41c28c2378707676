"""What running pods say of themselves: /progress of a stage, /state of a serving pod.

Pods are asked beside reconciling, since one that does not answer costs the whole timeout. Answers are kept
with the time when they came, and one that differs from the answer before queues the owner.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import aiohttp

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import (
    address,
    index_of,
    integer,
    items,
    label,
    terminating,
    text,
    uid_of,
)
from finetune_operator.render.names import KIND_LABEL, STAGE_LABEL
from finetune_operator.render.pod import PROGRESS_PORT
from finetune_operator.runtime.queue import QueueClosedError, WorkQueue
from finetune_operator.runtime.resources import Key, owner_key
from finetune_operator.serving.network import AGENT_PORT
from finetune_operator.serving.observed import told_generation

TIMEOUT_SECONDS = 3.0
# /state of 1024 aliases with the longest names takes 0.6 MB, twice that where each says why it has no answer.
MAX_BYTES = 4 * 1024 * 1024
ASKED_AT_ONCE = 16
# Every changed answer is a reconcile; with more pods than this allows, each is asked less often.
ASKED_PER_SECOND = 15.0
CONVERGING_SECONDS = 1.0
UNREACHABLE_SECONDS = 5.0
SHIFTING_SECONDS = 5.0  # a rollout by steps is judged by what pods tell
STEADY_SECONDS = 15.0
LONGEST_UNREACHABLE_SECONDS = 600.0
log = logging.getLogger(__name__)


class Fetch(Protocol):
    """Reads one JSON object from a pod; None when it cannot be had, whatever the cause."""

    async def __call__(self, address: str, port: int, path: str) -> Mapping[str, Any] | None:
        """Ask `http://address:port/path`."""
        ...


class PodReader:
    """`Fetch` over HTTP. Pods run code that users influence, so time and size are bounded."""

    def __init__(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        # No proxy from the environment: pod addresses are inside the cluster.
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def __call__(self, address: str, port: int, path: str) -> Mapping[str, Any] | None:
        """Ask `http://address:port/path`; redirects are not followed."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{port}{path}", allow_redirects=False) as response:
                if response.status != 200:
                    return None
                return _object(await _bounded(response))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


@dataclass(frozen=True)
class Target:
    """A pod that is asked, and who wants to know; `generation` is the server manifest that it was told of."""

    owner: Key
    address: str
    port: int
    path: str
    generation: int = 0


@dataclass(frozen=True)
class Answer:
    """The last document of a pod and when it came, or when it was first asked in vain; `at` None before that.

    `reachable` is whether the last question was answered.
    """

    document: Mapping[str, Any] | None = None
    at: datetime | None = None
    reachable: bool = False

    @property
    def failed(self) -> bool:
        """Whether the last question got no answer, which is not so while nobody has asked."""
        return self.at is not None and not self.reachable


SILENT = Answer()


class Poller:
    """Asks every pod that runs, `ASKED_AT_ONCE` of them at the same time. `changed` queues an owner."""

    def __init__(
        self,
        fetch: Fetch,
        changed: Callable[[Key], None],
        progress_seconds: float,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ):
        self._fetch = fetch
        self._changed = changed
        self._progress_seconds = progress_seconds
        self._now = now
        self._queue: WorkQueue[str] = WorkQueue(clock)
        self._targets: dict[str, Target] = {}
        self._answers: dict[str, Answer] = {}

    def answer(self, pod: Manifest) -> Answer:
        """What is known of a pod."""
        return self._answers.get(uid_of(pod), SILENT)

    def look(self, pod: Manifest, gone: bool) -> None:
        """A pod is new, has changed or is gone: ask it from now on, soon, or no more."""
        uid, target = uid_of(pod), None if gone else target_of(pod)
        if target is not None:
            self._targets[uid] = target
            self._queue.add(uid)
            return
        self._targets.pop(uid, None)
        self._answers.pop(uid, None)

    async def work(self) -> None:
        """One of the tasks that ask."""
        while True:
            try:
                uid = await self._queue.get()
            except QueueClosedError:
                return
            try:
                await self._ask(uid)
            finally:
                self._queue.done(uid)

    def close(self) -> None:
        """Ask no more."""
        self._queue.close()

    async def _ask(self, uid: str) -> None:
        target = self._targets.get(uid)
        if target is None:
            return
        document = await self._fetch(target.address, target.port, target.path)
        if self._targets.get(uid) != target:
            return  # the pod ended or moved meanwhile, and then it is queued again
        before = self._answers.get(uid, SILENT)
        self._answers[uid] = self._after(before, document)
        if (document is not None) != before.reachable or document not in (None, before.document):
            self._changed(target.owner)
        self._queue.add(uid, self._pause(target, self._answers[uid]))

    def _after(self, before: Answer, document: Mapping[str, Any] | None) -> Answer:
        if document is None:
            return Answer(before.document, before.at or self._now())
        return Answer(document, self._now(), reachable=True)

    def _pause(self, target: Target, answer: Answer) -> float:
        if target.port == AGENT_PORT:
            usual = state_pause(answer.document if answer.reachable else None, target.generation)
        else:
            usual = max(self._progress_seconds, len(self._targets) / ASKED_PER_SECOND)
        return patient_pause(usual, answer, self._now())


def target_of(pod: Manifest) -> Target | None:
    """Where a pod is to be asked: rank 0 of a running stage and running serving pods, no others."""
    owner, where = owner_key(pod), address(pod)
    if owner is None or where is None or terminating(pod):
        return None
    if label(pod, KIND_LABEL) == "ModelServer":
        return Target(owner, where, AGENT_PORT, "/state", told_generation(pod))
    if label(pod, STAGE_LABEL) and index_of(pod) == 0:
        return Target(owner, where, PROGRESS_PORT, "/progress")
    return None


def state_pause(document: Mapping[str, Any] | None, generation: int) -> float:
    """Seconds until a serving pod is asked again: soon while it loads, drains or follows a new manifest.

    `generation` is the manifest that the pod was told of; its volume brings that a moment later.
    """
    if document is None:
        return UNREACHABLE_SECONDS
    phases = {text(version, "phase") for version in items(document, "versions")}
    applied = integer(document, "appliedGeneration") or 0
    behind = applied < generation or integer(document, "generation") != applied
    moving = behind or document.get("ready") is not True or not phases <= {"Ready", "Failed"}
    if moving:
        return CONVERGING_SECONDS
    shifts = any(len(items(alias, "targets")) > 1 for alias in items(document, "aliases"))
    return SHIFTING_SECONDS if shifts else STEADY_SECONDS


def patient_pause(usual: float, answer: Answer, now: datetime) -> float:
    """Seconds until a pod is asked again: as long as it has been silent, which doubles the pause each time.

    A question in vain keeps a task busy for the whole timeout; silent pods must leave time for the others.
    """
    if answer.at is None or answer.reachable:
        return usual
    return max(usual, min((now - answer.at).total_seconds(), LONGEST_UNREACHABLE_SECONDS))


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        body += chunk
        if len(body) > MAX_BYTES:
            return b""
    return bytes(body)


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
