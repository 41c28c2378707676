"""What each version is doing: requests, failures and requests in flight, for /state and /metrics."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass
class Tally:
    """Counts of one version since this process started: `requests` are the finished ones.

    `seconds` and `first_byte_seconds` are sums over them.
    """

    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    empty: int = 0
    cut: int = 0
    seconds: float = 0.0
    first_byte_seconds: float = 0.0


@dataclass(eq=False)
class Call:
    """One request under way in `task`; `status` 0 means that no answer came (the client left)."""

    version: str
    started: float
    ledger: "Ledger"
    task: asyncio.Task[Any] | None
    status: int = 0
    failed: bool = False
    first_byte: float | None = None

    def mark_byte(self) -> None:
        """Remember that the engine sent something now."""
        self.ledger.last_byte = time.monotonic()
        if self.first_byte is None:
            self.first_byte = self.ledger.last_byte


class Ledger:
    """Counts per version, kept as plain numbers for decisions and as Prometheus metrics for people.

    `last_byte` is when the engine last sent something to a client (monotonic seconds).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tallies: dict[str, Tally] = {}
        self._calls: set[Call] = set()
        self.last_byte = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._requests = Counter(
            "finetune_gateway_requests", "Answered requests", ["version", "code"], registry=registry
        )
        self._failures = Counter(
            "finetune_gateway_failures", "Requests the server failed", ["version"], registry=registry
        )
        self._in_flight = Gauge(
            "finetune_gateway_in_flight", "Requests being answered", ["version"], registry=registry
        )
        self._seconds = Histogram(
            "finetune_gateway_request_seconds",
            "Time from request to last byte",
            ["version"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self._first = Histogram(
            "finetune_gateway_first_byte_seconds",
            "Time to first byte",
            ["version"],
            registry=registry,
            buckets=_BUCKETS,
        )

    def tally(self, version: str) -> Tally:
        """The counts of a version; zeros for one that was never asked."""
        return self._tallies.get(version, Tally())

    @contextmanager
    def track(self, version: str) -> Iterator[Call]:
        """Count a request as in flight from the moment its version is chosen until its last byte."""
        tally = self._tallies.setdefault(version, Tally())
        tally.in_flight += 1
        self._in_flight.labels(version).inc()
        self._idle.clear()
        call = Call(version, time.monotonic(), self, asyncio.current_task())
        self._calls.add(call)
        try:
            yield call
        finally:
            self._finish(call, tally)

    def _finish(self, call: Call, tally: Tally) -> None:
        self._calls.remove(call)
        tally.in_flight -= 1
        tally.requests += 1
        tally.seconds += time.monotonic() - call.started
        self._in_flight.labels(call.version).dec()
        self._requests.labels(call.version, str(call.status)).inc()
        self._seconds.labels(call.version).observe(time.monotonic() - call.started)
        if call.first_byte is not None:
            tally.first_byte_seconds += call.first_byte - call.started
            self._first.labels(call.version).observe(call.first_byte - call.started)
        if call.failed or call.status >= 500:
            tally.failures += 1
            self._failures.labels(call.version).inc()
        if not any(t.in_flight for t in self._tallies.values()):
            self._idle.set()

    def forget(self, version: str) -> None:
        """Drop a version that is gone, so that series do not pile up with every roll-out."""
        self._tallies.pop(version, None)
        for metric in (self._failures, self._in_flight, self._seconds, self._first):
            metric.remove_by_labels({"version": version})
        self._requests.remove_by_labels({"version": version})

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return len(self._calls)

    def cancel(self, version: str) -> int:
        """End what is still in flight of a version, each request as a failure; how many there were."""
        late = [call for call in self._calls if call.version == version]
        for call in late:
            call.failed = True
            if call.task is not None:
                call.task.cancel()
        return len(late)

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()
