"""The running operator: everything that is started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import text
from finetune_operator.runtime.cache.listing import Listing
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.cache.reflector import Reflector
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.pods import ASKED_AT_ONCE, Poller
from finetune_operator.runtime.process.health import HealthServer
from finetune_operator.runtime.process.lease import Elector
from finetune_operator.runtime.process.tasks import LagMonitor, Supervisor
from finetune_operator.runtime.reconciler import Reconciler
from finetune_operator.runtime.resources import Key

WORKERS = 16
DRAIN_SECONDS = 20.0
# While the caches are filled, this long without one more object ends the process.
SYNC_SECONDS = 120.0
# For a cache that is not required: queued runs are not told that Kueue is absent while it is being listed.
GRACE_SECONDS = 10.0
# A watch brings a bookmark every minute; three missed ones and a failed relist mean that we decide blindly.
STALE_SECONDS = 300.0
# kopf's watches owe what a write or a list has shown; they bring it within a second.
OVERDUE_SECONDS = 60.0
# What was stale for so long is not mended by waiting any longer.
DEAD_SECONDS = 900.0
log = logging.getLogger(__name__)


class StartError(Exception):
    """The operator cannot start; the message says why and what to do."""


class EndedError(Exception):
    """The process ended because something it cannot do without broke; the message says what."""


@dataclass(frozen=True)
class ProcessParts:
    """What a process is made of; `elector` is None for one that has no rival."""

    metrics: Metrics
    owners: Owners
    listing: Listing
    reflectors: Sequence[Reflector]
    poller: Poller
    recorder: Recorder
    reconciler: Reconciler
    elector: Elector | None


class Process:
    """Starts and stops the parts in the right order, and answers the probes."""

    def __init__(self, parts: ProcessParts, supervisor: Supervisor, host: str, port: int):
        self._parts = parts
        self._address = host, port
        self.port = port
        self._clock = asyncio.get_running_loop().time
        self._supervisor = supervisor
        self._lag = LagMonitor(self._clock, parts.metrics.loop_lag.set)
        self._health = HealthServer(parts.metrics, self._not_alive, self._not_ready)
        self._caught_up = False
        parts.metrics.stale_watches(self._stale)
        self.ending = supervisor.ending
        self.asked_to_stop = False

    @property
    def failure(self) -> str | None:
        """Why the process has to end, None while all is well."""
        return self._supervisor.failure

    def ask_to_stop(self) -> None:
        """End the process in good order."""
        self.asked_to_stop = True
        self.ending.set()

    def fail(self, why: str) -> None:
        """End the process with this reason."""
        self._supervisor.fail(why)

    def seen(self, kind: str, deleted: bool, body: Manifest) -> None:
        """kopf's watch brought one of our objects: keep it and queue who should look, without waiting."""
        key = Key(kind, text(body, "metadata", "namespace"), text(body, "metadata", "name"))
        for one in self._parts.owners.brought(key, body, deleted=deleted):
            self._parts.reconciler.enqueue(one, urgent=one == key)

    async def start(self) -> None:
        """Start what needs no leadership. kopf's watches begin after this, so nothing is waited for."""
        try:
            self.port = await self._health.start(*self._address)
        except OSError as error:
            host, wanted = self._address
            raise StartError(f"Cannot listen on {host}:{wanted} for probes: {error.strerror}.") from error
        log.info("listening", extra={"port": self.port})
        self._supervisor.start("loop-lag", self._lag.run())
        for reflector in self._parts.reflectors:
            self._supervisor.start(f"reflector-{reflector.resource.plural}", reflector.run())
        if self._parts.elector is not None:
            self._supervisor.start("elector", self._parts.elector.run())
        self._supervisor.start("main", self._main())

    async def _main(self) -> None:
        try:
            await self._lead()
        except StartError as error:
            self.fail(str(error))

    async def _lead(self) -> None:
        """Fill the caches, wait to lead, decide."""
        await self._while_objects_come(self._complete())
        self._caught_up = True
        self._supervisor.start("listing", self._parts.listing.run())
        if self._parts.elector is not None:
            log.info("standing by")
            await self._parts.elector.leading.wait()
            await self._while_objects_come(self._parts.listing.caught_up())
        self._parts.metrics.leader.set(1)
        self._parts.reconciler.lead()
        log.info("started", extra={"workers": WORKERS})
        await self._work()

    async def _work(self) -> None:
        """Until the queues are closed."""
        parts = self._parts
        self._supervisor.start("resync", parts.reconciler.resync())
        self._supervisor.start("events", parts.recorder.run())
        workers = [parts.reconciler.work() for _ in range(WORKERS)]
        pollers = [parts.poller.work() for _ in range(ASKED_AT_ONCE)]
        await asyncio.gather(*workers, *pollers)

    async def stop(self) -> None:
        """Let workers finish what they hold, then end everything and let another replica lead."""
        self._supervisor.expect_end()
        queue = self._parts.reconciler.queue
        queue.close()
        self._parts.poller.close()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await queue.drained()
                await self._parts.recorder.flushed()
        except TimeoutError:
            log.warning("not drained in time", extra={"in_flight": queue.in_flight})
        await self._supervisor.stop()
        if self._parts.elector is not None:
            await self._parts.elector.release()
        await self._health.stop()
        log.info("stopped")

    async def _complete(self) -> None:
        """Every required cache holds what exists; before that, absent would be taken for gone."""
        for reflector in self._required:
            await reflector.synced.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                for reflector in self._parts.reflectors:
                    await reflector.synced.wait()
        await self._parts.listing.caught_up()

    async def _while_objects_come(self, waiting: Coroutine[Any, Any, None]) -> None:
        """A large cluster may take its time; where a role is missing nothing comes."""
        work, held = asyncio.ensure_future(waiting), -1
        try:
            while not work.done():
                if (now := self._held()) == held:
                    raise StartError(self._nothing_came())
                held = now
                await asyncio.wait({work}, timeout=SYNC_SECONDS)
            work.result()
        finally:
            work.cancel()

    def _held(self) -> int:
        """How many objects the caches hold."""
        return len(self._parts.owners.known()) + sum(len(r.store) for r in self._parts.reflectors)

    def _nothing_came(self) -> str:
        return (
            f"Not complete, and nothing came for {SYNC_SECONDS:.0f} s: {'; '.join(self._incomplete())}. The "
            "log says what the API server answers (a missing role is the usual cause)."
        )

    @property
    def _required(self) -> list[Reflector]:
        return [reflector for reflector in self._parts.reflectors if reflector.required]

    def _incomplete(self) -> list[str]:
        unsynced = [r.resource.plural for r in self._required if not r.synced.is_set()]
        owed = self._parts.owners.arrivals.owed()
        awaited = [f"{owed} objects that the watches of our kinds did not bring"] if owed else []
        return [*(f"{plural} not listed" for plural in unsynced), *awaited] or ["our kinds not listed"]

    def _stale(self) -> Mapping[str, float]:
        """For every watched kind, for how many seconds it may have missed something."""
        now = self._clock()
        children = {r.resource.kind: now - r.fresh_at for r in self._parts.reflectors}
        return {**children, **self._parts.owners.arrivals.overdue()}

    def _older_than(self, children: float, own: float) -> list[str]:
        overdue = self._parts.owners.arrivals.overdue()
        optional = {r.resource.kind for r in self._parts.reflectors if not r.required}
        return [
            f"the watch of {kind} brought nothing for {seconds:.0f} s"
            for kind, seconds in self._stale().items()
            if kind not in optional and seconds > (own if kind in overdue else children)
        ]

    def _not_alive(self) -> list[str]:
        failed = [self.failure] if self.failure else []
        return [*failed, *self._lag.wrong(), *self._older_than(DEAD_SECONDS, DEAD_SECONDS)]

    def _not_ready(self) -> list[str]:
        filling = [] if self._caught_up else self._incomplete()
        return [*self._not_alive(), *filling, *self._older_than(STALE_SECONDS, OVERDUE_SECONDS)]
