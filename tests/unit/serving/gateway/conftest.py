"""Fixtures of the gateway's tests: an engine, a gateway in front of it, a client of the gateway."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from finetune_serving.gateway import hold
from tests.engine_stand_in import session
from tests.unit.serving.gateway.builders import Client, Engine, Setup


@pytest.fixture(autouse=True)
def _short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 0.3)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path / "e.sock")
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def keys(tmp_path: Path) -> Path | None:
    """No keys; a test file that needs some replaces this fixture."""
    return None


@pytest.fixture
async def setup(engine: Engine, keys: Path | None) -> AsyncIterator[Setup]:
    async with session(engine.path, limit=0, keepalive_timeout=15) as calls:
        yield Setup(calls, keys)


@pytest.fixture
async def client(setup: Setup) -> AsyncIterator[Client]:
    async with TestClient(TestServer(setup.gateway.app())) as client:
        yield client
