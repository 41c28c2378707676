"""Level-triggered reconciliation: keys from a queue, one object at a time, by as many workers as wanted."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from datetime import datetime

from finetune_operator.contracts.settings import Settings
from finetune_operator.runtime.client import Api, ApiError, Object
from finetune_operator.runtime.controllers import Controller
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.executor import Executor, Outcome
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.queue import QueueClosedError, WorkQueue
from finetune_operator.runtime.resources import Key, own_resource

RESYNC_SECONDS = 600.0
STALE_SECONDS = 0.1
log = logging.getLogger(__name__)


class Reconciler:
    """Owns the queue. `enqueue` may be called for anything that may have changed; it never blocks."""

    def __init__(
        self,
        api: Api,
        controllers: Mapping[str, Controller],
        settings: Settings,
        recorder: Recorder,
        metrics: Metrics,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ):
        self.queue: WorkQueue[Key] = WorkQueue(clock)
        self._api = api
        self._controllers = controllers
        self._settings = settings
        self._recorder = recorder
        self._executor = Executor(api, recorder, metrics)
        self._metrics = metrics
        self._clock = clock
        self._now = now
        self._known: set[Key] = set()
        metrics.publish("queue_length", "Objects queued, now or for later", lambda: len(self.queue))
        metrics.publish(
            "queue_wait_seconds", "How long the object that is due longest has waited", self.queue.waited
        )
        metrics.publish("workers_busy", "Workers that reconcile", lambda: self.queue.in_flight)

    def enqueue(self, key: Key) -> None:
        """Something about this object may have changed."""
        self._known.add(key)
        self.queue.add(key)

    async def work(self) -> None:
        """One worker: reconcile key after key until the queue is closed."""
        while True:
            try:
                key = await self.queue.get()
            except QueueClosedError:
                return
            try:
                await self._timed(key)
            finally:
                self.queue.done(key)

    async def resync(self) -> None:
        """Queue every known object now and then, spread over time: repairs whatever no event told us."""
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            for key in self._known:
                self.queue.add(key, random.uniform(0.0, RESYNC_SECONDS / 10))  # noqa: S311

    async def _timed(self, key: Key) -> None:
        started = self._clock()
        try:
            result = await self._reconcile(key)
        except ApiError as error:
            result = "error"
            self._again_after_api_error(key, error)
        except Exception:
            # A bug in observing or planning one object must neither stop the others nor spin.
            result = "error"
            log.exception("reconcile failed", extra=_fields(key, retry_seconds=self.queue.backoff(key)))
        self._metrics.reconciled(key.kind, result, self._clock() - started)

    async def _reconcile(self, key: Key) -> str:
        """Observe, plan, execute. The object is read live: no cache may be older than the decision."""
        owner = await self._api.get(own_resource(key.kind), key.namespace, key.name)
        if owner is None or owner["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return "gone"
        self._metrics.show(key, owner)
        controller = self._controllers[key.kind]
        observed = await controller.observe(owner)
        plan = controller.plan(observed, self._settings, self._now())
        try:
            outcome = await self._executor.execute(key, owner, plan)
        except ApiError as error:
            await self._explain(owner, error)
            raise
        self.queue.forget(key)
        if outcome is not Outcome.UNCHANGED:
            # Not left to the watch: the next step must follow even while the watch is cut.
            self.queue.add(key, STALE_SECONDS if outcome is Outcome.STALE else 0.0)
        elif plan.requeue_after is not None:
            self.queue.add(key, plan.requeue_after)
        return outcome.value

    def _forget(self, key: Key) -> None:
        """Children go by their owner references; a worker may forget what an event adds again at any time."""
        self._known.discard(key)
        self.queue.forget(key)
        self._metrics.forget(key)

    async def _explain(self, owner: Object, error: ApiError) -> None:
        """What the server refuses for good (quota, admission, a missing role) is the user's to see."""
        if error.status in (400, 403, 405, 413, 422):
            text = f"The API server refused: {error.message}"
            await self._recorder.record(owner, "Warning", "Refused", text)

    def _again_after_api_error(self, key: Key, error: ApiError) -> None:
        delay = self.queue.backoff(key)
        log.warning("reconcile failed", extra=_fields(key, error=str(error), retry_seconds=delay))


def _fields(key: Key, **more: object) -> dict[str, object]:
    return {"kind": key.kind, "namespace": key.namespace, "object": key.name, **more}
