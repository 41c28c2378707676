"""Ways in which the connection to the API server can be broken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping

from tests.faults.operators.proxy import Call, Cut, Fault, Forward, Reply, never, refusal

THROTTLED = refusal(429, "TooManyRequests", "slow down", {"Retry-After": "1"})
CONFLICT = refusal(
    409, "Conflict", "the object has been modified; please apply your changes to the latest version"
)
INTERNAL = refusal(500, "InternalError", "etcdserver: leader changed")
UNAVAILABLE = refusal(503, "ServiceUnavailable", "the server is currently unable to handle the request")
REFUSALS = 15
"""More would only test how long a back-off gets: a reconcile of a server is about ten requests."""


class Refusing(Fault):
    """Refuses one request in five at random, or one write in five, until the API server has recovered."""

    def __init__(self, reply: Reply, writes_only: bool = False):
        self._reply = reply
        self._writes_only = writes_only
        self._dice = random.Random(7)
        self._left = REFUSALS

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Refuse it without passing it on."""
        spared = (self._writes_only and not call.write) or not self._left
        if spared or self._dice.random() > 0.2:
            return await forward()
        self._left -= 1
        return self._reply


class LostAnswers(Fault):
    """Every third write is carried out, and its answer is lost; the answer to its repetition arrives.

    Losing that too would test no operator: a plan of three writes would never come to its fourth.
    """

    def __init__(self) -> None:
        self._lost: set[tuple[str, str, bytes]] = set()

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Cut the connection after the write."""
        reply = await forward()
        same = (call.method, call.path, call.body)
        if call.write and call.write % 3 == 0 and same not in self._lost:
            self._lost.add(same)
            raise Cut
        return reply


class Slow(Fault):
    """Every answer takes its time."""

    def __init__(self, seconds: float):
        self._seconds = seconds

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Wait first."""
        await asyncio.sleep(self._seconds)
        return await forward()


class Hanging(Fault):
    """The first list of Jobs and the third write are never answered."""

    def __init__(self) -> None:
        self._listed = False

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Leave it open."""
        lists = call.signature == "GET jobs" and not call.watch and not self._listed
        self._listed |= lists
        return await (never() if lists or call.write == 3 else forward())


class CutWatches(Fault):
    """Every watch ends after a few events: with 410 Gone, or as a broken connection."""

    def __init__(self, gone: bool):
        self._gone = gone

    async def stream(self, call: Call, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Some lines, then the end."""
        count = 0
        async for line in lines:
            yield line
            count += 1
            if count == 2:
                break
        if not self._gone:
            raise Cut
        gone = refusal(410, "Expired", "too old resource version")
        yield b'{"type":"ERROR","object":' + gone.body + b"}\n"


class LateWatches(Fault):
    """What the operator hears of one resource comes seconds late: its caches are behind."""

    def __init__(self, plurals: Mapping[str, float]):
        self._plurals = plurals

    async def stream(self, call: Call, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Each line after a while."""
        plural = call.path.split("?")[0].rsplit("/", 1)[-1]
        async for line in lines:
            await asyncio.sleep(self._plurals.get(plural, 0.0))
            yield line
