"""The running operator: everything that is started and stopped together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_operator.core.actions import Manifest
from finetune_operator.runtime.fetch import PodReader
from finetune_operator.runtime.process.health import HealthServer
from finetune_operator.runtime.kube import KubernetesApi
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.reconciler import Reconciler
from finetune_operator.runtime.cache.references import References
from finetune_operator.runtime.cache.reflector import Reflector
from finetune_operator.runtime.resources import Key, owner_key
from finetune_operator.runtime.process.tasks import LagMonitor, Supervisor

WORKERS = 8
DRAIN_SECONDS = 20.0
SYNC_SECONDS = 120.0
# A watch brings a bookmark every minute; three missed ones and a failed relist mean that we decide blindly.
STALE_SECONDS = 300.0
log = logging.getLogger(__name__)


class StartError(Exception):
    """The operator cannot start; the message says why and what to do."""


class EndedError(Exception):
    """The process ended because something it cannot do without broke; the message says what."""


@dataclass(frozen=True)
class Parts:
    """What a process is made of."""

    api: KubernetesApi
    reader: PodReader
    metrics: Metrics
    reconciler: Reconciler
    reflectors: Sequence[Reflector]


class Process:
    """Starts and stops the parts in the right order, and answers the probes."""

    def __init__(self, parts: Parts, host: str, port: int):
        self._parts = parts
        self._address = host, port
        self._clock = asyncio.get_running_loop().time
        self._supervisor = Supervisor()
        self._references = References()
        self._lag = LagMonitor(self._clock, parts.metrics.loop_lag.set)
        self._health = HealthServer(parts.metrics, self._not_alive, self._not_ready)
        self.ending = self._supervisor.ending
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

    async def start(self) -> None:
        """Start everything; workers only once every store is complete, else absent would mean gone."""
        try:
            port = await self._health.start(*self._address)
        except OSError as error:
            host, wanted = self._address
            raise StartError(f"Cannot listen on {host}:{wanted} for probes: {error.strerror}.") from error
        self._supervisor.start("loop-lag", self._lag.run())
        for reflector in self._parts.reflectors:
            self._supervisor.start(f"reflector-{reflector.resource.plural}", reflector.run())
        await self._synced()
        for number in range(WORKERS):
            self._supervisor.start(f"worker-{number}", self._parts.reconciler.work())
        self._supervisor.start("resync", self._parts.reconciler.resync())
        log.info("started", extra={"port": port, "workers": WORKERS})

    async def stop(self) -> None:
        """Let workers finish what they hold, then end everything."""
        self._supervisor.expect_end()
        queue = self._parts.reconciler.queue
        queue.close()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await queue.drained()
        except TimeoutError:
            log.warning("not drained in time", extra={"in_flight": queue.in_flight})
        await self._supervisor.stop()
        await self._health.stop()
        log.info("stopped")

    def seen(self, kind: str, deleted: bool, body: Mapping[str, Any]) -> None:
        """A watch event about one of our objects: queue it and whoever refers to it, without waiting."""
        metadata = body["metadata"]
        key = Key(kind, metadata["namespace"], metadata["name"])
        references = self._references
        others = references.gone(key) if deleted else references.changed(key, body.get("spec") or {})
        for one in (key, *others):
            self._parts.reconciler.enqueue(one)

    async def _synced(self) -> None:
        waits = [reflector.synced.wait() for reflector in self._parts.reflectors]
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                await asyncio.gather(*waits)
        except TimeoutError:
            names = [r.resource.plural for r in self._parts.reflectors if not r.synced.is_set()]
            raise StartError(
                f"Cannot list {', '.join(names)} within {SYNC_SECONDS:.0f} s; the log says what the API "
                "server answers (a missing role is the usual cause)."
            ) from None

    def _not_alive(self) -> list[str]:
        return [*([self.failure] if self.failure else []), *self._lag.wrong()]

    def _not_ready(self) -> list[str]:
        now, reflectors = self._clock(), self._parts.reflectors
        unsynced = [f"{r.resource.plural} not listed yet" for r in reflectors if not r.synced.is_set()]
        stale = [
            f"{r.resource.plural} not heard of for {now - r.fresh_at:.0f} s"
            for r in reflectors
            if r.synced.is_set() and now - r.fresh_at > STALE_SECONDS
        ]
        return [*self._not_alive(), *unsynced, *stale]


def waker(reconciler: Reconciler) -> Any:
    """A reflector's callback that queues the owner of a child that changed."""

    def wake(manifest: Manifest) -> None:
        key = owner_key(manifest)
        if key is not None:
            reconciler.enqueue(key)

    return wake
