"""What is done to an operator while a scenario is played. An attack starts the operators and breaks things."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dev.chart import RELEASE
from tests.faults.cluster.client import ApiServerError
from tests.faults.operators import connections
from tests.faults.operators.processes import Operator, Operators
from tests.faults.operators.proxy import Call, Fault, Forward, Reply, never
from tests.faults.oracles import OWN
from tests.faults.scenarios.scenario import World

Start = Callable[[Operators, World], Coroutine[Any, Any, None]]


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


async def _annotate(operators: Operators, world: World) -> None:
    """Somebody else writes to our objects for a while: every status is computed from an old version."""
    serving = asyncio.create_task(_serve(await operators.start()))
    until = time.monotonic() + ANNOTATING_SECONDS
    try:
        while time.monotonic() < until:
            body = {"metadata": {"annotations": {"example.com/seen": str(time.monotonic())}}}
            for kind, name in [name for name in world.history.objects if name[0] in OWN]:
                with suppress(ApiServerError):  # it may just have been deleted
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


ATTACKS = (
    broken(
        "one write in five answers 409 Conflict",
        lambda: connections.Refusing(connections.CONFLICT, writes_only=True),
    ),
    broken(
        "one request in five answers 429 with Retry-After",
        lambda: connections.Refusing(connections.THROTTLED),
    ),
    broken("one request in five answers 500", lambda: connections.Refusing(connections.INTERNAL)),
    broken("one request in five answers 503", lambda: connections.Refusing(connections.UNAVAILABLE)),
    broken("the answer to every third write is lost", connections.LostAnswers),
    broken("every answer takes 300 ms", lambda: connections.Slow(0.3)),
    broken("a list and a write are never answered", connections.Hanging),
    broken("every watch breaks after two events", lambda: connections.CutWatches(gone=False)),
    broken("every watch ends with 410 after two events", lambda: connections.CutWatches(gone=True)),
    broken(
        "news of Jobs and pods comes a second late",
        lambda: connections.LateWatches({"jobs": 1.0, "pods": 1.0}),
    ),
    broken(
        "news of our own kinds comes a second late",
        lambda: connections.LateWatches(
            {"finetunejobs": 1.0, "modelservers": 1.0, "adapterdeployments": 1.0}
        ),
    ),
    Attack("without a Lease: two operators at once", _two),
    Attack("without a Lease: one operator is paused while another works", _paused),
    Attack("the replica that leads dies", _leader_dies),
    Attack("the replica that leads is paused past its Lease", _leader_sleeps, "ending: the Lease"),
    Attack("somebody annotates our objects all the time for 8 s", _annotate),
)
