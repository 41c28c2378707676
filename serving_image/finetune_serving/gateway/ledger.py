"""What each version is doing: requests, failures and requests in flight, for /state and /metrics."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass
class Tally:
    """Counts of one version since this process started."""

    in_flight: int = 0
    requests: int = 0
    failures: int = 0


@dataclass
class Call:
    """One request under way; `status` 0 means that no answer came (the client left)."""

    version: str
    started: float
    status: int = 0
    failed: bool = False
    first_byte: float | None = None

    def mark_first_byte(self) -> None:
        """Remember when the answer began; only the first call counts."""
        if self.first_byte is None:
            self.first_byte = time.monotonic()


class Ledger:
    """Counts per version, kept as plain numbers for decisions and as Prometheus metrics for people."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tallies: dict[str, Tally] = {}
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
        tally.requests += 1
        self._in_flight.labels(version).inc()
        self._idle.clear()
        call = Call(version, time.monotonic())
        try:
            yield call
        finally:
            self._finish(call, tally)

    def _finish(self, call: Call, tally: Tally) -> None:
        tally.in_flight -= 1
        self._in_flight.labels(call.version).dec()
        self._requests.labels(call.version, str(call.status)).inc()
        self._seconds.labels(call.version).observe(time.monotonic() - call.started)
        if call.first_byte is not None:
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

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()
