"""How real vLLM ends: its worker dies, or stops for good while its health says 200 and nothing generates."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
import psutil
import pytest

from finetune_serving.agent.engine_client import EngineClient
from finetune_serving.agent.engine_watch import EngineWatch
from finetune_serving.gateway.ledger import Ledger
from tests.contract.engine.conftest import running_engine

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.long]
PATIENCE = 5.0
ASK = {"model": "tiny", "prompt": "the quick brown", "max_tokens": 8}


async def test_an_engine_that_hangs_is_found_and_ends(base_model: Path) -> None:
    with running_engine(base_model) as socket:
        server = next(p for p in psutil.Process().children() if str(socket) in p.cmdline())
        workers = server.children(recursive=True)
        connector = aiohttp.UnixConnector(str(socket), force_close=True)
        try:
            async with aiohttp.ClientSession("http://engine", connector=connector) as session:
                ledger = Ledger()
                watch = EngineWatch(EngineClient(session), ledger, lambda: "tiny", PATIENCE)
                assert (await watch.look()).up
                for worker in workers:
                    worker.suspend()
                with ledger.call(asyncio.timeout(None)) as call:
                    ledger.enter(call, "tiny", "tiny")
                    tasks = [asyncio.create_task(watch.guard()), asyncio.create_task(_ask(session))]
                    assert (await watch.look()).up  # its health is all that a probe of it would see
                    await asyncio.to_thread(_wait_for_end, server)
                    assert watch.verdict.hung
                    for task in tasks:
                        task.cancel()
        finally:
            for worker in workers:
                worker.kill()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param(lambda server: _kill_workers(server), 1, id="its worker dies"),
        pytest.param(lambda server: server.terminate(), 0, id="it is told to stop"),
    ],
)
def test_the_exit_code_tells_an_engine_that_died_from_one_that_was_stopped(
    base_model: Path, end: Callable[[psutil.Process], None], code: int
) -> None:
    with running_engine(base_model) as socket:
        server = next(p for p in psutil.Process().children() if str(socket) in p.cmdline())
        end(server)
        assert server.wait(timeout=60) == code


def _kill_workers(server: psutil.Process) -> None:
    for worker in server.children(recursive=True):
        worker.kill()


async def _ask(session: aiohttp.ClientSession) -> None:
    async with session.post("/v1/completions", json=ASK) as response:
        await response.read()


def _wait_for_end(process: psutil.Process) -> None:
    _, alive = psutil.wait_procs([process], timeout=12 * PATIENCE)
    assert alive == []
