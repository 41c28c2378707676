"""What is done to an operator while a scenario is played. An attack starts the operators and breaks things."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from dev.chart import RELEASE
from tests.faults.operators.processes import Operator, Operators
from tests.faults.operators.proxy import Call, Cut, Fault, Forward, Reply, never, refusal
from tests.faults.oracles import OWN
from tests.faults.scenarios.scenario import World

Start = Callable[[Operators, World], Coroutine[Any, Any, None]]


REFUSALS = 15
"""More would only test how long a back-off gets: a reconcile of a server is about ten requests."""


TAKEOVER_SECONDS = 20.0
ANNOTATING_SECONDS = 8.0


class AttackFailed(Exception):
    """The operators themselves did something that they must not do; the text says what."""


@dataclass(frozen=True)
class Attack:
    """`run` never returns by itself; it is cancelled when the scenario has come to its end.

    `told` is how a line begins that the operator has to log as an error.
    """

    name: str
    run: Start
    told: str | None = None


async def _serve(life: Operator) -> None:
    """Let it run; one that ends by itself is a violation."""
    raise AttackFailed(f"the operator ended by itself with exit code {await life.end()}")


async def _calm(operators: Operators, world: World) -> None:
    await _serve(await operators.start())


CALM = Attack("nothing", _calm)


class _Kill(Fault):
    """SIGKILL before or after the n-th write; the answer never comes."""

    def __init__(self, write: int, after: bool):
        self.operator: asyncio.Future[Operator] = asyncio.get_running_loop().create_future()
        self._write = write
        self._after = after

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Kill the operator whose write this is."""
        if call.write != self._write:
            return await forward()
        if self._after:
            await forward()
        (await self.operator).kill()
        return await never()


def crash(write: int, after: bool) -> Attack:
    """The operator dies before or after its n-th write, and another one starts."""

    async def run(operators: Operators, world: World) -> None:
        kill = _Kill(write, after)
        life = await operators.start(kill)
        kill.operator.set_result(life)
        await life.end()
        await _serve(await operators.start())

    return Attack(f"death {'after' if after else 'before'} write {write}", run)


def broken(name: str, make: Callable[[], Fault]) -> Attack:
    """One operator behind a broken connection."""

    async def run(operators: Operators, world: World) -> None:
        await _serve(await operators.start(make()))

    return Attack(name, run)


async def _two(operators: Operators, world: World) -> None:
    await asyncio.gather(_serve(await operators.start()), _serve(await operators.start()))


class _Refusing(Fault):
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


class _LostAnswers(Fault):
    """Every third write is carried out, and its answer is lost."""

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Cut the connection after the write."""
        reply = await forward()
        if call.write and call.write % 3 == 0:
            raise Cut
        return reply


class _Slow(Fault):
    """Every answer takes its time."""

    def __init__(self, seconds: float):
        self._seconds = seconds

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Wait first."""
        await asyncio.sleep(self._seconds)
        return await forward()


class _Hanging(Fault):
    """The first read and the third write are never answered."""

    def __init__(self) -> None:
        self._reads = 0

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Leave it open."""
        self._reads += not call.write and not call.watch
        if call.write == 3 or (self._reads == 12 and not call.write):
            self._reads += 1
            return await never()
        return await forward()


class _CutWatches(Fault):
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


class _LateWatches(Fault):
    """What the operator hears of one resource comes seconds late: its caches are behind."""

    def __init__(self, plurals: Mapping[str, float]):
        self._plurals = plurals

    async def stream(self, call: Call, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Each line after a while."""
        plural = call.path.split("?")[0].rsplit("/", 1)[-1]
        async for line in lines:
            await asyncio.sleep(self._plurals.get(plural, 0.0))
            yield line


async def _annotate(operators: Operators, world: World) -> None:
    """Somebody else writes to our objects for a while: every status is computed from an old version."""
    serving = asyncio.create_task(_serve(await operators.start()))
    until = time.monotonic() + ANNOTATING_SECONDS
    try:
        while time.monotonic() < until:
            body = {"metadata": {"annotations": {"example.com/seen": str(time.monotonic())}}}
            for kind, name in [name for name in world.history.objects if name[0] in OWN]:
                await world.client.patch(kind, world.namespace, name, body)
            await asyncio.sleep(0.05)
        await serving
    finally:
        serving.cancel()


async def _paused(operators: Operators, world: World) -> None:
    """SIGSTOP in the middle of its work, another one takes over, SIGCONT."""
    first = await operators.start()
    second = asyncio.create_task(_stand_in(operators, first, world))
    try:
        await _serve(first)
    finally:
        second.cancel()


async def _stand_in(operators: Operators, first: Operator, world: World) -> None:
    await _begun(first, 4)
    first.send(signal.SIGSTOP)
    second = await operators.start()
    await _begun(second, 6)
    first.send(signal.SIGCONT)


async def _leader_dies(operators: Operators, world: World) -> None:
    """Two replicas with a Lease: the one that leads is killed, the other one has to lead soon."""
    leader, other = await _replicas(operators, world)
    leader.kill()
    try:
        async with asyncio.timeout(TAKEOVER_SECONDS):
            while not other.proxy.renewals:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AttackFailed(f"no replica took over within {TAKEOVER_SECONDS:.0f} s") from None
    await _serve(other)


async def _leader_sleeps(operators: Operators, world: World) -> None:
    """Two replicas with a Lease: the one that leads is stopped until the other leads, and goes on then."""
    leader, other = await _replicas(operators, world)
    leader.send(signal.SIGSTOP)
    await _begun(other, 1)
    begun = leader.proxy.begun
    leader.send(signal.SIGCONT)
    await leader.end()
    if leader.proxy.begun > begun:
        raise AttackFailed(f"the old leader wrote {leader.proxy.begun - begun} times")
    await _serve(other)


async def _replicas(operators: Operators, world: World) -> tuple[Operator, Operator]:
    """The one that leads, once it has written a little, and the other one."""
    lease = f"{world.namespace}/{RELEASE}"
    one, other = await operators.start(lease=lease), await operators.start(lease=lease)
    while not one.proxy.begun and not other.proxy.begun:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    leader, replica = (one, other) if one.proxy.begun else (other, one)
    await _begun(leader, 6)
    return leader, replica


async def _begun(operator: Operator, writes: int) -> None:
    while operator.proxy.begun < writes:  # noqa: ASYNC110 - the proxy counts and tells nobody
        await asyncio.sleep(0.05)


THROTTLED = refusal(429, "TooManyRequests", "slow down", {"Retry-After": "1"})
CONFLICT = refusal(
    409, "Conflict", "the object has been modified; please apply your changes to the latest version"
)
INTERNAL = refusal(500, "InternalError", "etcdserver: leader changed")
UNAVAILABLE = refusal(503, "ServiceUnavailable", "the server is currently unable to handle the request")

ATTACKS = (
    broken("one write in five answers 409 Conflict", lambda: _Refusing(CONFLICT, writes_only=True)),
    broken("one request in five answers 429 with Retry-After", lambda: _Refusing(THROTTLED)),
    broken("one request in five answers 500", lambda: _Refusing(INTERNAL)),
    broken("one request in five answers 503", lambda: _Refusing(UNAVAILABLE)),
    broken("the answer to every third write is lost", _LostAnswers),
    broken("every answer takes 300 ms", lambda: _Slow(0.3)),
    broken("a read and a write are never answered", _Hanging),
    broken("every watch breaks after two events", lambda: _CutWatches(gone=False)),
    broken("every watch ends with 410 after two events", lambda: _CutWatches(gone=True)),
    broken("news of Jobs and pods comes a second late", lambda: _LateWatches({"jobs": 1.0, "pods": 1.0})),
    broken(
        "news of our own kinds comes a second late",
        lambda: _LateWatches({"finetunejobs": 1.0, "modelservers": 1.0, "adapterdeployments": 1.0}),
    ),
    Attack("without a Lease: two operators at once", _two),
    Attack("without a Lease: one operator is paused while another works", _paused),
    Attack("the replica that leads dies", _leader_dies),
    Attack("the replica that leads is paused past its Lease", _leader_sleeps, "ending: the Lease"),
    Attack("somebody annotates our objects all the time for 8 s", _annotate),
)
