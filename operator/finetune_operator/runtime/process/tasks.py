"""Background tasks that must never end by themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

LAG_SAMPLE_SECONDS = 1.0
LAG_LIMIT_SECONDS = 10.0
log = logging.getLogger(__name__)


class Supervisor:
    """Runs tasks; the first that ends while it should run is fatal, because nothing else would notice."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.failure: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a task under supervision."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def alive(self) -> list[str]:
        """The names of the tasks that run."""
        return [task.get_name() for task in self._tasks if not task.done()]

    def expect_end(self) -> None:
        """From now on tasks may end."""
        self._stopping = True

    def fail(self, why: str) -> None:
        """Something without which the process is of no use is broken; the first reason is kept."""
        self.failure = self.failure or why
        self.ending.set()

    async def stop(self) -> None:
        """Cancel what still runs and wait for it."""
        self.expect_end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._stopping or self.ending.is_set() or task.cancelled():
            return
        log.critical("task ended", extra={"task": task.get_name()}, exc_info=task.exception())
        self.fail(f"task {task.get_name()} ended: {task.exception()!r}")


class LagMonitor:
    """Measures how late the event loop is: a blocked loop delays every probe, watch and reconcile."""

    def __init__(self, clock: Callable[[], float], publish: Callable[[float], None]):
        self._clock = clock
        self._publish = publish
        self._last = clock()
        self.lag = 0.0

    async def run(self) -> None:
        """Sample for ever."""
        while True:
            self._last = self._clock()
            await asyncio.sleep(LAG_SAMPLE_SECONDS)
            self.lag = max(0.0, self._clock() - self._last - LAG_SAMPLE_SECONDS)
            self._publish(self.lag)

    def wrong(self) -> list[str]:
        """What a liveness probe should say."""
        late = max(self.lag, self._clock() - self._last - LAG_SAMPLE_SECONDS)
        return [f"event loop is {late:.1f} s late"] if late > LAG_LIMIT_SECONDS else []
