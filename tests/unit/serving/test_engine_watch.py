"""When an engine counts as up, and what a silent one gets as the benefit of the doubt."""

import asyncio
from typing import cast

import pytest

from finetune_serving.agent.engine_client import EngineClient, EngineSlowError, Identity
from finetune_serving.agent.engine_watch import (
    SILENCES,
    EngineWatch,
    Verdict,
    after_answer,
    after_hang,
    after_loss,
    after_silence,
)
from finetune_serving.gateway.ledger import Ledger

UP = Verdict("one", up=True)


def silences(start: Verdict, count: int, *, heard: bool = False) -> Verdict:
    for _ in range(count):
        start = after_silence(start, "late", heard=heard)
    return start


@pytest.mark.parametrize(
    ("verdict", "up"),
    [
        pytest.param(after_answer(Verdict(), Identity("one", 3)), True, id="one that answers is up"),
        pytest.param(after_loss(UP, "refused"), False, id="one whose socket refuses is down at once"),
        pytest.param(after_silence(UP, "late", heard=False), True, id="one late answer is no loss"),
        pytest.param(silences(UP, SILENCES), False, id="three questions without a byte are"),
        pytest.param(silences(UP, 99, heard=True), True, id="one that sends bytes to clients is only busy"),
        pytest.param(
            after_answer(silences(UP, 99), Identity("one", 3)), True, id="one that answers again is up again"
        ),
        pytest.param(silences(after_loss(UP, "gone"), 1), False, id="silence brings nobody back"),
        pytest.param(silences(Verdict(), 1), False, id="one that never answered is not up"),
        pytest.param(
            after_answer(after_hang(UP, 600), Identity("one", 3)), False, id="one that hangs stays down"
        ),
        pytest.param(
            after_answer(after_hang(UP, 600), Identity("two", 3)), True, id="until another process answers"
        ),
    ],
)
def test_verdict(verdict: Verdict, up: bool) -> None:
    assert verdict.up is up


def test_a_sign_of_life_starts_the_count_again() -> None:
    seen = silences(silences(silences(UP, SILENCES - 1), 1, heard=True), SILENCES - 1)
    assert seen.up


class Hanging:
    """An engine that answers questions about its health and nothing else; `asked`, `exits` are for tests."""

    def __init__(self) -> None:
        self.asked, self.answer, self.exits = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def identity(self) -> Identity:
        self.asked.set()
        await self.answer.wait()
        return Identity("one", 3)

    async def generates(self, _: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise EngineSlowError("silent")

    async def exit(self) -> None:
        self.exits.set()


def watch_of(engine: Hanging, ledger: Ledger) -> EngineWatch:
    return EngineWatch(cast("EngineClient", engine), ledger, lambda: "base", patience=0.05)


async def test_a_look_that_began_before_the_hang_was_found_does_not_undo_it() -> None:
    engine = Hanging()
    watch = watch_of(engine, Ledger())
    watch.verdict = UP
    look = asyncio.create_task(watch.look())
    await engine.asked.wait()
    watch.verdict = after_hang(UP, 600)
    engine.answer.set()
    assert (await look).hung


async def test_an_engine_whose_clients_all_gave_up_is_found_to_hang() -> None:
    engine, ledger = Hanging(), Ledger()
    watch = watch_of(engine, ledger)
    watch.verdict = UP
    with ledger.call(asyncio.timeout(None)) as call:
        ledger.enter(call, "x", "x--1")
    guard = asyncio.create_task(watch.guard())
    async with asyncio.timeout(10):
        await engine.exits.wait()
    guard.cancel()
    assert watch.verdict.hung
