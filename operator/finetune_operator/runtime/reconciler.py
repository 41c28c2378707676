"""Level-triggered reconciliation: keys from a queue, one object at a time, by as many workers as wanted."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from finetune_operator.core.actions import Plan, Refusal
from finetune_operator.core.manifests import terminating
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.client import Api, ApiError, Object
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.executor import PERMANENT, ExecutionResult, Executor, FailedError, RefusedError
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.observers.controllers import AnyController, Decide
from finetune_operator.runtime.observers.servers import first_problem
from finetune_operator.runtime.queue import QueueClosedError, WorkQueue
from finetune_operator.runtime.resources import Key, own_resource
from finetune_operator.runtime.statuses import StatusWriter

RESYNC_SECONDS = 600.0
REWRITE_SECONDS = 5.0
REFUSED_SECONDS = 60.0
"""The longest between two tries of what is refused: nobody tells when a quota or a role was mended."""
TOLD_SECONDS = 10.0
"""How long an action fails before the status tells."""
log = logging.getLogger(__name__)


class Reconciler:
    """Owns the queue. `enqueue` may be called for anything that may have changed; it never blocks."""

    def __init__(
        self,
        api: Api,
        owners: Owners,
        controllers: Mapping[str, AnyController],
        recorder: Recorder,
        metrics: Metrics,
        queue: WorkQueue[Key],
        clock: Callable[[], float],
    ):
        self.queue = queue
        self._api = api
        self._owners = owners
        self._controllers = controllers
        self._recorder = recorder
        self._statuses = StatusWriter(api, owners, metrics, clock, queue.add)
        self._executor = Executor(api, recorder, self._statuses, metrics)
        self._metrics = metrics
        self._clock = clock
        self._leads = False
        self._failing_since: dict[Key, float] = {}
        metrics.publish("queue_length", "Objects queued, now or for later", lambda: len(self.queue))
        metrics.publish(
            "queue_wait_seconds", "How long the object that is due longest has waited", self.queue.waited
        )
        metrics.publish("workers_busy", "Workers that reconcile", lambda: self.queue.in_flight)

    def lead(self) -> None:
        """From now on this process decides, beginning with every object once."""
        self._leads = True
        for key in self._owners.known():
            self.enqueue(key)

    def enqueue(self, key: Key, *, urgent: bool = False) -> None:
        """Something about this object may have changed. A process that stands by leaves it to the leader."""
        if self._leads:
            self.queue.add(key, urgent=urgent)

    async def work(self) -> None:
        """One worker: reconcile key after key until the queue is closed."""
        while True:
            try:
                key = await self.queue.get()
            except QueueClosedError:
                return
            try:
                await self.reconcile(key)
            finally:
                self.queue.done(key)

    async def resync(self) -> None:
        """Queue every object now and then, spread over time: repairs whatever no event told us."""
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            for key in self._owners.known():
                self.queue.add(key, random.uniform(0.0, RESYNC_SECONDS / 10))  # noqa: S311

    async def reconcile(self, key: Key) -> None:
        """Reconcile one object now. Whatever goes wrong with it is logged and tried again later."""
        started = self._clock()
        try:
            result = await self._reconcile(key)
        except ApiError as error:
            result = "error"
            delay = self.queue.backoff(key, at_least=error.retry_after or 0.0)
            log.warning("reconcile failed", extra=_fields(key, error=str(error), retry_seconds=delay))
        except Exception:
            # A bug in observing or planning one object must neither stop the others nor spin.
            result = "error"
            log.exception("reconcile failed", extra=_fields(key, retry_seconds=self.queue.backoff(key)))
        self._metrics.reconciled(key.kind, result, self._clock() - started)

    async def _reconcile(self, key: Key) -> str:
        """Observe, plan, execute."""
        owner = self._owners.get(key)
        if owner is None or terminating(owner):
            self._forget(key)
            return "gone"
        self._metrics.show(key, owner)
        try:
            decide = await self._controllers[key.kind].observe(owner)
        except ValidationError as error:
            return self._unreadable(key, owner, error)
        plan = decide(None)
        try:
            result = await self._execute(key, owner, plan)
        except RefusedError as error:
            return await self._refused(key, owner, decide, error.refusal)
        except FailedError as error:
            return await self._failed(key, owner, decide, error)
        if result is not ExecutionResult.STALE:  # else not all of it was tried
            self._failing_since.pop(key, None)
        await self._follow_up(key, plan, result)
        return result.value

    def _unreadable(self, key: Key, owner: Object, error: ValidationError) -> str:
        """Another version stored it, or the CRD is not ours: nothing can be done until it is corrected."""
        text = f"This {key.kind} cannot be read: {first_problem(error)}; correct it."
        self._recorder.record(owner, "Warning", "Unreadable", text)
        log.warning("unreadable", extra=_fields(key, error=text, retry_seconds=self.queue.backoff(key)))
        return "error"

    async def _execute(self, key: Key, owner: Object, plan: Plan) -> ExecutionResult:
        try:
            return await self._executor.execute(key, owner, plan)
        except ApiError as error:
            if error.status in PERMANENT:  # of the status itself, which therefore cannot tell
                text = f"The API server refuses the status: {error.message}"
                self._recorder.record(owner, "Warning", "Refused", text)
            raise

    async def _refused(self, key: Key, owner: Object, decide: Decide, refusal: Refusal) -> str:
        """Show what the server refuses for good (quota, admission, a missing role, a name that is taken) and
        try again later: most of it can be mended without a change of the object.
        """
        self._failing_since.pop(key, None)
        self._metrics.refused(refusal.kind, refusal.reason)
        shown = await self._show(key, owner, decide, refusal)
        delay = self.queue.backoff(key, at_most=REFUSED_SECONDS if shown else REWRITE_SECONDS)
        log.warning("refused", extra=_fields(key, error=refusal.message, retry_seconds=delay))
        return "refused"

    async def _failed(self, key: Key, owner: Object, decide: Decide, error: FailedError) -> str:
        """Try again later. What lasts (no address is free for a Service) is shown like a refusal."""
        since = self._failing_since.setdefault(key, self._clock())
        lasts = self._clock() - since >= TOLD_SECONDS
        shown = not lasts or await self._show(key, owner, decide, error.refusal)
        longest = REFUSED_SECONDS if shown else REWRITE_SECONDS
        delay = self.queue.backoff(key, at_least=error.retry_after or 0.0, at_most=longest)
        log.warning("reconcile failed", extra=_fields(key, error=str(error), retry_seconds=delay))
        return "error"

    async def _show(self, key: Key, owner: Object, decide: Decide, refusal: Refusal) -> bool:
        """Whether the status shows it: the object may have changed, and is then read live."""
        self._recorder.record(owner, "Warning", refusal.reason, refusal.message)
        try:
            result = await self._execute(key, owner, Plan(status=decide(refusal).status))
            if result is ExecutionResult.STALE:
                await self._read_live(key)
        except ApiError as error:
            log.warning("status not written", extra=_fields(key, error=str(error)))
            return False
        return result is not ExecutionResult.STALE

    async def _follow_up(self, key: Key, plan: Plan, result: ExecutionResult) -> None:
        """What follows a write is not left to the watch, which may be cut. Writes in a row back off like
        failures, so that two writers who undo each other's work cannot keep the API server busy; not as
        far, for each event of the other writer counts as one, and the work has to go on when they end.
        """
        if result is ExecutionResult.STALE:
            await self._read_live(key)
        if result is not ExecutionResult.UNCHANGED:
            self.queue.backoff(key, at_most=REWRITE_SECONDS)
            return
        self.queue.forget(key)
        if plan.requeue_after is not None:
            self.queue.add(key, plan.requeue_after)

    async def _read_live(self, key: Key) -> None:
        """A decision was refused because something had changed, so the cache is not believed either."""
        before = self._owners.version(key)
        live = await self._api.get(own_resource(key.kind), key.namespace, key.name)
        self._owners.reread(key, live, before)

    def _forget(self, key: Key) -> None:
        """Children are garbage-collected by their owner references; a new object of this name begins anew."""
        self._controllers[key.kind].forget(key)
        self._statuses.forget(key)
        self._failing_since.pop(key, None)
        self.queue.forget(key)
        self._metrics.forget(key)


def _fields(key: Key, **more: object) -> dict[str, object]:
    return {"kind": key.kind, "namespace": key.namespace, "object": key.name, **more}
