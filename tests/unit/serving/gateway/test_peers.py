"""A replica whose engine is down, and another one that is ready."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_serving.gateway import hold
from finetune_serving.gateway.peers import Peers
from tests.engine_stand_in import session
from tests.unit.serving.gateway.builders import BODY, CHAT, VERSION, Client, Engine, Setup


@pytest.fixture
async def other(engine: Engine) -> AsyncIterator[Setup]:
    """The gateway of another replica, whose engine is the one that runs."""
    async with session(engine.path) as calls:
        yield Setup(calls)


@pytest.fixture
async def setup(setup: Setup, other: Setup) -> AsyncIterator[Setup]:
    """A replica without its engine, which knows of the other."""
    async with TestServer(other.gateway.app()) as server, aiohttp.ClientSession() as calls:
        setup.gateway.peers = Peers(calls, str(server.make_url("/")))
        setup.book.engine_up = False
        yield setup


@asynccontextmanager
async def ends(setup: Setup, path: Path, meanwhile: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """The replica has an engine at `path`, which ends with the first request; `meanwhile` happens then."""
    mine = Engine(path)

    async def end(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        meanwhile()
        mine.path.unlink()
        request.transport.abort()
        return web.Response()

    mine.reply = end
    await mine.start()
    setup.book.engine_up = True
    async with session(path) as setup.gateway.engine:
        yield
    await mine.stop()


@asynccontextmanager
async def refuses(setup: Setup, path: Path) -> AsyncIterator[None]:
    """The replica's engine has ended, which its agent has not seen yet."""
    setup.book.engine_up = True
    async with session(path) as setup.gateway.engine:
        yield


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "a whole answer"])
async def test_a_request_is_passed_to_a_ready_replica(
    client: Client, setup: Setup, other: Setup, stream: bool
) -> None:
    response = await client.post(CHAT, json=BODY | {"stream": stream}, headers={"x-request-id": "mine"})
    assert (response.status, response.headers["x-finetune-version"]) == (200, VERSION)
    assert response.headers["x-request-id"] == "mine"
    assert b"usage" not in await response.read() or not stream
    await other.finished()
    assert (setup.ledger.tally(VERSION).requests, other.ledger.tally(VERSION).requests) == (0, 1)
    assert 'requests_total{alias="reviews",code="200",version=""} 1.0' in setup.metrics()


async def test_bytes_of_another_replica_are_no_sign_of_our_own_engine(client: Client, setup: Setup) -> None:
    before = setup.ledger.last_byte
    await client.post(CHAT, json=BODY)
    assert setup.ledger.last_byte == before


async def test_a_request_is_passed_once_only(
    client: Client, setup: Setup, other: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 0.1)
    other.book.engine_up = False
    other.gateway.peers = setup.gateway.peers
    assert (await client.post(CHAT, json=BODY)).status == 503
    assert other.ledger.accounts["reviews", ""].codes == {503: 1}


async def test_without_a_ready_replica_the_request_waits_for_its_own_engine(
    client: Client, setup: Setup, other: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
    other.book.engine_up = False
    asked = asyncio.create_task(client.post(CHAT, json=BODY))
    await _until_held(setup)
    setup.book.engine_up = True
    setup.book.announce()
    assert (await asked).status == 200


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "a whole answer"])
async def test_what_an_engine_took_along_before_its_first_byte_is_answered_by_the_other(
    client: Client, setup: Setup, other: Setup, tmp_path: Path, stream: bool
) -> None:
    async with ends(setup, tmp_path / "mine.sock"):
        response = await client.post(CHAT, json=BODY | {"stream": stream})
        assert (response.status, response.headers["x-finetune-version"]) == (200, VERSION)
        assert b"usage" not in await response.read() or not stream
    assert setup.book.trouble.is_set()
    await other.finished()
    assert (setup.ledger.tally(VERSION).failures, other.ledger.tally(VERSION).requests) == (0, 1)


async def test_what_an_engine_took_along_after_a_while_waits_for_a_replica_that_is_ready(
    client: Client, setup: Setup, other: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Service may choose a replica that is going down as well."""
    monkeypatch.setattr(hold, "HOLD_SECONDS", 0.0)

    def go_down() -> None:
        monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
        setup.book.engine_up = other.book.engine_up = False

    async with ends(setup, tmp_path / "mine.sock", go_down):
        asked = asyncio.create_task(client.post(CHAT, json=BODY))
        await _until_held(setup)
        other.book.engine_up = True
        setup.book.announce()
        assert (await asked).status == 200


async def test_the_other_replica_sets_its_own_template_kwargs_beside_those_of_the_client(
    client: Client, setup: Setup, other: Setup, engine: Engine, tmp_path: Path
) -> None:
    setup.book.template_kwargs = {VERSION: {"enable_thinking": False, "old": 1}}
    other.book.template_kwargs = {VERSION: {"enable_thinking": True}}
    async with ends(setup, tmp_path / "mine.sock"):
        await client.post(CHAT, json=BODY | {"chat_template_kwargs": {"mine": 2}})
    async with ends(setup, tmp_path / "mine.sock"):
        await client.post(CHAT, json=BODY)
    asked = [body["chat_template_kwargs"] for body in engine.bodies]
    assert asked == [{"enable_thinking": True, "mine": 2}, {"enable_thinking": True}]


async def test_what_an_engine_refuses_before_the_agent_has_seen_its_end_is_answered_by_the_other(
    client: Client, setup: Setup, other: Setup, tmp_path: Path
) -> None:
    async with refuses(setup, tmp_path / "gone.sock"):
        asked = asyncio.create_task(client.post(CHAT, json=BODY))
        await _until_held(setup)
        setup.book.engine_up = False  # as the agent does, awake by `trouble`
        setup.book.announce()
        assert (await asked).status == 200
    assert (setup.ledger.tally(VERSION).failures, other.ledger.tally(VERSION).requests) == (0, 1)


async def test_a_stream_that_comes_back_from_the_other_has_no_usage_either(
    client: Client,
    setup: Setup,
    other: Setup,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
    other.book.engine_up = False
    async with session(engine.path) as back, refuses(setup, tmp_path / "gone.sock"):
        asked = asyncio.create_task(client.post(CHAT, json=BODY | {"stream": True}))
        await _until_held(setup)
        setup.book.engine_up = False
        setup.book.announce()
        await _until_asked(other)
        await _until_held(setup)
        setup.gateway.engine, setup.book.engine_up = back, True
        setup.book.announce()
        response = await asked
        assert response.status == 200
        assert b"usage" not in await response.read()


async def test_an_alias_that_only_this_replica_cannot_have_is_answered_by_the_other(
    client: Client, setup: Setup, other: Setup
) -> None:
    setup.book.engine_up, setup.book.loaded = True, frozenset()
    setup.book.unavailable = {"reviews": "The disk of this replica is full."}
    assert (await client.post(CHAT, json=BODY)).status == 200
    other.book.engine_up = False
    refused = await client.post(CHAT, json=BODY)
    assert (refused.status, "disk" in await refused.text()) == (503, True)


async def test_a_replica_that_becomes_ready_meanwhile_gets_the_request(
    client: Client, setup: Setup, other: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
    other.book.engine_up = False
    asked = asyncio.create_task(client.post(CHAT, json=BODY))
    await _until_held(setup)
    other.book.engine_up = True
    setup.book.announce()
    assert (await asked).status == 200
    assert other.ledger.tally(VERSION).requests == 1


async def test_another_replica_is_not_asked_at_every_news(
    client: Client, setup: Setup, other: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 0.6)
    other.book.engine_up = False
    news = asyncio.create_task(_announce_always(setup))
    assert (await client.post(CHAT, json=BODY)).status == 503
    news.cancel()
    assert other.ledger.accounts["reviews", ""].codes[503] <= 3  # at 0, 0.25 and 0.75 s


async def test_what_the_other_replica_refuses_is_the_answer(client: Client, engine: Engine) -> None:
    async def reply(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "too long"}}, status=400)

    engine.reply = reply
    assert (await client.post(CHAT, json=BODY)).status == 400


async def _until_held(setup: Setup) -> None:
    async with asyncio.timeout(10):
        while not setup.gateway.hold.waiting:  # noqa: ASYNC110 - the gateway has no event for a test
            await asyncio.sleep(0)


async def _until_asked(other: Setup) -> None:
    async with asyncio.timeout(10):
        while not any(account.codes for account in other.ledger.accounts.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def _announce_always(setup: Setup) -> None:
    while True:
        setup.book.announce()
        await asyncio.sleep(0.01)
