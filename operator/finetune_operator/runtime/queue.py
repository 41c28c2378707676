"""A work queue of keys with the semantics of client-go's workqueue.

A key is queued at most once; a key added while a worker holds it is handed out again after `done`;
failures back off per key. What a user did is urgent: a new object does not wait until a thousand others have
followed their pods. `Schedule` is pure (time is an argument), `WorkQueue` lets tasks wait on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 300.0
EVERY = 4


class QueueClosedError(Exception):
    """The queue was closed while a worker waited: the worker ends."""


@dataclass(frozen=True)
class _Wish:
    """When a key is due, and whether it goes before those that are not urgent."""

    due: float
    urgent: bool

    def with_other(self, other: _Wish | None) -> _Wish:
        """Both wishes in one."""
        return self if other is None else _Wish(min(self.due, other.due), self.urgent or other.urgent)


class Schedule(Generic[K]):
    """When each key is due. All times are seconds of one monotonic clock, given by the caller.

    Of the keys that are due the urgent ones come first, but every fourth is another while there are any.
    """

    def __init__(self, first: float = FIRST_BACKOFF_SECONDS, longest: float = MAX_BACKOFF_SECONDS):
        self._first = first
        self._max = longest
        self._wishes: dict[K, _Wish] = {}
        self._heaps: dict[bool, list[tuple[float, int, K]]] = {True: [], False: []}
        self._in_flight: set[K] = set()
        self._dirty: dict[K, _Wish] = {}
        self._failures: dict[K, int] = {}
        self._sequence = 0
        self._handed_out = 0

    def __len__(self) -> int:
        """Keys that wait, whether due or not, those held by a worker excluded."""
        return len(self._wishes) + len(self._dirty)

    @property
    def in_flight(self) -> int:
        """Keys that a worker holds."""
        return len(self._in_flight)

    def add(self, key: K, now: float, delay: float = 0.0, *, urgent: bool = False) -> None:
        """Queue a key for `now + delay`; of several wishes for one key the earliest counts."""
        wish = _Wish(now + delay, urgent)
        if key in self._in_flight:
            self._dirty[key] = wish.with_other(self._dirty.get(key))
        else:
            self._push(key, wish)

    def backoff(
        self, key: K, now: float, at_least: float = 0.0, at_most: float = MAX_BACKOFF_SECONDS
    ) -> float:
        """Queue a key that failed; returns the delay, doubled with every failure up to the limit."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = max(min(self._first * 2.0 ** min(failures, 60), self._max, at_most), at_least)
        self.add(key, now, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts at the first backoff again."""
        self._failures.pop(key, None)

    def pop(self, now: float) -> K | None:
        """Hand out the key that has been due longest, urgent ones first, or None."""
        urgent_first = self._handed_out % EVERY != EVERY - 1
        for urgent in (urgent_first, not urgent_first):
            due = self._next_of(urgent)
            if due is not None and due <= now:
                _, _, key = heapq.heappop(self._heaps[urgent])
                del self._wishes[key]
                self._in_flight.add(key)
                self._handed_out += 1
                return key
        return None

    def done(self, key: K) -> None:
        """The worker let go of the key; what was added meanwhile is queued now."""
        self._in_flight.discard(key)
        wish = self._dirty.pop(key, None)
        if wish is not None:
            self._push(key, wish)

    def next_due(self) -> float | None:
        """When the next key is due, None while none waits."""
        return min((due for due in map(self._next_of, (True, False)) if due is not None), default=None)

    def _next_of(self, urgent: bool) -> float | None:
        heap = self._heaps[urgent]
        while heap and self._wishes.get(heap[0][2]) != _Wish(heap[0][0], urgent):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _push(self, key: K, wish: _Wish) -> None:
        known = self._wishes.get(key)
        wish = wish.with_other(known)
        if wish == known:
            return
        self._sequence += 1
        self._wishes[key] = wish
        heapq.heappush(self._heaps[wish.urgent], (wish.due, self._sequence, key))


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

    def add(self, key: K, delay: float = 0.0, *, urgent: bool = False) -> None:
        """Queue a key, `delay` seconds from now."""
        self._schedule.add(key, self._clock(), delay, urgent=urgent)
        self._changed.set()

    def backoff(self, key: K, at_least: float = 0.0, at_most: float = MAX_BACKOFF_SECONDS) -> float:
        """Queue a key that failed, in `at_least` to `at_most` seconds; returns the delay in seconds."""
        delay = self._schedule.backoff(key, self._clock(), at_least, at_most)
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
