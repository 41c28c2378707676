"""A work queue of keys with the semantics of client-go's workqueue.

A key is queued at most once; a key added while a worker holds it is handed out again after `done`;
failures back off per key. `Schedule` is pure (time is an argument), `WorkQueue` lets tasks wait on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 300.0


class QueueClosedError(Exception):
    """The queue was closed while a worker waited: the worker ends."""


class Schedule(Generic[K]):
    """When each key is due. All times are seconds of one monotonic clock, given by the caller."""

    def __init__(self, first: float = FIRST_BACKOFF_SECONDS, longest: float = MAX_BACKOFF_SECONDS):
        self._first = first
        self._max = longest
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._in_flight: set[K] = set()
        self._dirty: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._sequence = 0

    def __len__(self) -> int:
        """Keys that wait, whether due or not, those held by a worker excluded."""
        return len(self._due) + len(self._dirty)

    @property
    def in_flight(self) -> int:
        """Keys that a worker holds."""
        return len(self._in_flight)

    def add(self, key: K, now: float, delay: float = 0.0) -> None:
        """Queue a key for `now + delay`; of several wishes for one key the earliest counts."""
        due = now + delay
        if key in self._in_flight:
            self._dirty[key] = min(due, self._dirty.get(key, due))
        elif key not in self._due or due < self._due[key]:
            self._push(key, due)

    def backoff(self, key: K, now: float, at_least: float = 0.0) -> float:
        """Queue a key that failed; returns the delay, doubled with every failure up to the limit."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = max(min(self._first * 2.0 ** min(failures, 60), self._max), at_least)
        self.add(key, now, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts at the first backoff again."""
        self._failures.pop(key, None)

    def pop(self, now: float) -> K | None:
        """Hand out the key that has been due longest, or None."""
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) != due:
                continue
            del self._due[key]
            self._in_flight.add(key)
            return key
        return None

    def done(self, key: K) -> None:
        """The worker let go of the key; what was added meanwhile is queued now."""
        self._in_flight.discard(key)
        due = self._dirty.pop(key, None)
        if due is not None:
            self._push(key, due)

    def next_due(self) -> float | None:
        """When the next key is due, None while none waits."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _push(self, key: K, due: float) -> None:
        self._sequence += 1
        self._due[key] = due
        heapq.heappush(self._heap, (due, self._sequence, key))


class WorkQueue(Generic[K]):
    """A `Schedule` that tasks of one event loop can wait on."""

    def __init__(self, clock: Callable[[], float], schedule: Schedule[K] | None = None):
        self._clock = clock
        self._schedule: Schedule[K] = Schedule() if schedule is None else schedule
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._schedule)

    @property
    def in_flight(self) -> int:
        """Keys that a worker holds."""
        return self._schedule.in_flight

    def waited(self) -> float:
        """How long the key that is due longest has waited, in seconds; 0 while none is due."""
        due = self._schedule.next_due()
        return 0.0 if due is None else max(0.0, self._clock() - due)

    def add(self, key: K, delay: float = 0.0) -> None:
        """Queue a key, `delay` seconds from now."""
        self._schedule.add(key, self._clock(), delay)
        self._changed.set()

    def backoff(self, key: K, at_least: float = 0.0) -> float:
        """Queue a key that failed, not before `at_least` seconds; returns the delay in seconds."""
        delay = self._schedule.backoff(key, self._clock(), at_least)
        self._changed.set()
        return delay

    def forget(self, key: K) -> None:
        """Reset the failures of a key."""
        self._schedule.forget(key)

    def done(self, key: K) -> None:
        """Let go of a key that `get` handed out."""
        self._schedule.done(key)
        self._changed.set()

    async def get(self) -> K:
        """Wait for a due key. Call `done` with it afterwards. Raises QueueClosedError after `close`."""
        while not self._closed:
            key = self._schedule.pop(self._clock())
            if key is not None:
                return key
            await self._wait()
        raise QueueClosedError

    async def drained(self) -> None:
        """Wait until no worker holds a key."""
        while self.in_flight:
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Let every waiting worker end; keys in flight are finished by their workers."""
        self._closed = True
        self._changed.set()

    async def _wait(self) -> None:
        due = self._schedule.next_due()
        timeout = None if due is None else max(0.0, due - self._clock())
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            # Not wait_for: Python 3.11's swallows a cancellation that meets the event, and the worker stays.
            async with asyncio.timeout(timeout):
                await self._changed.wait()
