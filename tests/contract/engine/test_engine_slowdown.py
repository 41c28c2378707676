"""The slowdown by LoRA, measured on real vLLM."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_serving.agent import slowdown
from finetune_serving.agent.engine_client import EngineClient
from finetune_serving.agent.slowdown import SlowdownWatch, Subject
from finetune_serving.gateway.ledger import Ledger
from tests.engine_stand_in import session

pytestmark = [pytest.mark.engine, pytest.mark.slow]


async def test_what_an_adapter_costs_is_measured_and_a_client_comes_first(
    engine_socket: Path, make_adapter: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much the times scatter: this machine does other work too, and a server would publish nothing."""
    monkeypatch.setattr(slowdown, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(slowdown, "TOLERANCE", 100.0)
    make_adapter(tmp_path / "a", seed=1)
    async with session(engine_socket, force_close=True) as calls:
        client, ledger = EngineClient(calls), Ledger()
        await client.load("cost--1", str(tmp_path / "a"))
        engine = (await client.identity()).engine_id
        watch = SlowdownWatch(client, ledger, lambda: Subject(engine, "tiny", "cost--1"))
        running = asyncio.create_task(watch.run())
        async with asyncio.timeout(120):
            with ledger.call(asyncio.timeout(None)):
                await client.generates("tiny", 60)
                assert watch.found is None
            while watch.found is None:  # noqa: ASYNC110 - it is looked at, as Prometheus does
                await asyncio.sleep(0.05)
        running.cancel()
        print(f"an answer takes {watch.found.ratio:.3f} times as long with an adapter of rank 8")
        assert 0.2 < watch.found.ratio < 20
        assert await client.remove("cost--1")
