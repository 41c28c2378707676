"""Answers of events: passed on while they are made, read on the way, cut when they are broken."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from finetune_serving.gateway import streams
from tests.unit.serving.gateway.builders import (
    BODY,
    CHAT,
    DONE,
    STREAM,
    USAGE,
    VERSION,
    Client,
    Engine,
    Setup,
    delta,
    event,
)

ASK = {**BODY, "stream": True}


async def test_a_stream_arrives_while_it_is_made(client: Client, engine: Engine) -> None:
    engine.hold = asyncio.Event()
    response = await client.post(CHAT, json=ASK)
    assert await response.content.readuntil(b"\n\n") == STREAM[0]
    engine.hold.set()
    assert await response.content.read() == STREAM[1] + DONE


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        pytest.param({}, False, id="a client that did not ask"),
        pytest.param({"stream_options": None}, False, id="a client that said null"),
        pytest.param({"stream_options": {"include_usage": False}}, False, id="a client that did not want it"),
        pytest.param({"stream_options": {"include_usage": True}}, True, id="a client that asked"),
    ],
)
async def test_tokens_are_counted_and_shown_to_those_who_asked(
    client: Client, setup: Setup, engine: Engine, options: dict[str, Any], seen: bool
) -> None:
    response = await client.post(CHAT, json=ASK | options)
    text = await response.read()
    assert (b"usage" in text) is seen
    assert text.endswith(DONE)
    assert engine.bodies[0]["stream_options"]["include_usage"] is True
    await setup.finished()
    account = setup.ledger.accounts["reviews", VERSION]
    assert (account.prompt_tokens, account.generated_tokens) == (7, 2)


async def test_stream_options_that_are_no_object_are_left_to_the_engine(
    client: Client, engine: Engine
) -> None:
    await client.post(CHAT, json=ASK | {"stream_options": 7})
    assert engine.bodies[0]["stream_options"] == 7


async def test_events_that_come_in_pieces_are_passed_on_whole(client: Client, engine: Engine) -> None:
    text = STREAM[0] + STREAM[1] + event(choices=[], usage=USAGE)

    async def reply(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await engine.stream(request, *(text[at : at + 7] for at in range(0, len(text), 7)))

    engine.reply = reply
    response = await client.post(CHAT, json=ASK)
    assert await response.read() == STREAM[0] + STREAM[1] + DONE


async def test_an_error_inside_a_stream_is_a_failure(client: Client, setup: Setup, engine: Engine) -> None:
    error = {"error": {"message": "Internal server error", "type": "InternalServerError", "code": 500}}

    async def reply(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await engine.stream(request, STREAM[0], event(**error))

    engine.reply = reply
    response = await client.post(CHAT, json=ASK)
    assert (await response.read()).endswith(DONE)
    await setup.finished()
    tally = setup.ledger.tally(VERSION)
    assert (tally.requests, tally.failures, tally.empty) == (1, 1, 0)
    assert 'stream_errors_total{alias="reviews",version="reviews--1"} 1.0' in setup.metrics()


async def test_a_client_that_leaves_at_an_error_has_an_answer_that_failed(
    client: Client, setup: Setup, engine: Engine
) -> None:
    async def reply(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await engine.stream(request, event(error={"message": "it broke", "code": 500}), STREAM[0])

    engine.reply, engine.hold = reply, asyncio.Event()
    response = await client.post(CHAT, json=ASK)
    await response.content.readuntil(b"\n\n")
    response.close()  # as the openai client does
    await setup.finished()
    tally = setup.ledger.tally(VERSION)
    assert (tally.requests, tally.failures) == (1, 1)


async def test_the_death_of_the_engine_inside_a_stream_wakes_the_agent(
    client: Client, setup: Setup, engine: Engine
) -> None:
    dead = "EngineCore encountered an issue. See stack trace (above) for the root cause."

    async def reply(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await engine.stream(request, STREAM[0], event(error={"message": dead, "code": 500}))

    engine.reply = reply
    await (await client.post(CHAT, json=ASK)).read()
    assert setup.book.trouble.is_set()


async def test_a_broken_stream_does_not_look_complete(client: Client, setup: Setup, engine: Engine) -> None:
    async def reply(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAM[0])
        assert request.transport is not None
        request.transport.abort()
        return response

    engine.reply = reply
    response = await client.post(CHAT, json=ASK)
    with pytest.raises(aiohttp.ClientError):
        await response.content.read()
    await setup.finished()
    assert setup.ledger.tally(VERSION).failures == 1
    assert setup.book.trouble.is_set()


async def test_what_an_answer_lacks_is_counted(client: Client, setup: Setup, engine: Engine) -> None:
    async def reply(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await engine.stream(request, delta(""), delta("", "length"))

    engine.reply = reply
    await (await client.post(CHAT, json=ASK)).read()
    await setup.finished()
    tally = setup.ledger.tally(VERSION)
    assert (tally.empty, tally.cut) == (1, 1)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_engine(
    client: Client, setup: Setup, engine: Engine, stream: bool
) -> None:
    engine.hold = asyncio.Event()
    asked = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": stream}))
    await engine.waiting.wait()
    assert setup.ledger.tally(VERSION).in_flight == 1
    if stream:
        (await asked).close()
    else:
        asked.cancel()
    async with asyncio.timeout(30):
        await engine.left.wait()
    await setup.finished()
    tally = setup.ledger.tally(VERSION)
    assert (tally.requests, tally.failures) == (0, 0)
    assert setup.ledger.accounts["reviews", VERSION].codes == {499: 1}


async def test_a_client_that_stops_reading_lets_its_version_go(
    client: Client, setup: Setup, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.2)
    large = delta("x" * 2**20)

    async def reply(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await engine.stream(request, *([large] * 64))

    engine.reply = reply
    content = json.dumps(ASK).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection(client.host, client.port, limit=1024)
    writer.write(head + content)
    await reader.readline()
    await setup.finished()
    assert setup.ledger.tally(VERSION).in_flight == 0
    writer.close()


async def test_a_version_that_has_to_go_ends_its_streams_as_failures(
    client: Client, setup: Setup, engine: Engine
) -> None:
    engine.hold = asyncio.Event()
    response = await client.post(CHAT, json=ASK)
    await response.content.readuntil(b"\n\n")
    assert (setup.ledger.cancel(VERSION), setup.ledger.cancel(VERSION)) == (1, 0)
    with pytest.raises(aiohttp.ClientError):
        await response.content.read()
    await setup.finished()
    assert setup.ledger.tally(VERSION).failures == 1


async def test_a_version_that_has_to_go_answers_503_to_those_who_still_wait(
    client: Client, setup: Setup, engine: Engine
) -> None:
    engine.hold = asyncio.Event()
    asked = asyncio.create_task(client.post(CHAT, json=BODY))
    await engine.waiting.wait()
    setup.ledger.cancel(VERSION)
    assert (await asked).status == 503
    assert setup.ledger.tally(VERSION).failures == 1


async def test_bytes_of_the_engine_are_noted_for_its_watch(client: Client, setup: Setup) -> None:
    before = setup.ledger.last_byte
    await (await client.post(CHAT, json=ASK)).read()
    assert setup.ledger.last_byte > before
