"""A pod that is taken away: clients with kept connections lose nothing."""

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.unit.serving.gateway.builders import BODY, CHAT, Client, Engine, Setup

CLIENTS = 8


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "a whole answer"])
async def test_while_closing_every_answer_says_so_in_its_head(
    client: Client, setup: Setup, stream: bool
) -> None:
    setup.book.closing = True
    response = await client.post(CHAT, json={**BODY, "stream": stream})
    assert response.status == 200
    assert response.headers["Connection"] == "close"
    await response.read()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        pytest.param(CHAT, {"model": "nobody"}, id="an unknown model"),
        pytest.param("/nowhere", {}, id="an unknown path"),
        pytest.param(CHAT, {}, id="a bad request"),
    ],
)
async def test_refusals_close_too(client: Client, setup: Setup, path: str, content: dict[str, Any]) -> None:
    setup.book.closing = True
    assert (await client.post(path, json=content)).headers["Connection"] == "close"


async def test_a_pod_without_an_engine_sends_its_clients_to_another(client: Client, setup: Setup) -> None:
    setup.book.engine_up = False
    response = await client.post(CHAT, json=BODY)
    assert (response.status, response.headers["Connection"]) == (503, "close")


async def test_an_open_pod_keeps_its_connections(client: Client) -> None:
    assert "Connection" not in (await client.post(CHAT, json=BODY)).headers


async def test_no_client_loses_a_request_when_the_pod_closes_between_two_of_them(
    client: Client, setup: Setup, engine: Engine
) -> None:
    """As at SIGTERM: clients go on while closing is said. Half of them stream; none replays a request."""
    lost: list[str] = []
    answers, closed = Countdown(3 * CLIENTS), Countdown(3 * CLIENTS)

    async def ask(number: int) -> None:
        async with aiohttp.ClientSession(f"http://{client.host}:{client.port}") as session:
            while not closed.reached.is_set():
                try:
                    async with session.post(CHAT, json={**BODY, "stream": number % 2 == 0}) as response:
                        await response.read()
                        (closed if setup.book.closing else answers).count()
                except aiohttp.ClientError as error:
                    lost.append(repr(error))

    clients = [asyncio.create_task(ask(number)) for number in range(CLIENTS)]
    await answers.reached.wait()
    setup.book.closing = True
    await closed.reached.wait()
    await asyncio.gather(*clients)
    assert lost == []


class Countdown:
    """`reached` is set at the count that is waited for."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.reached = asyncio.Event()

    def count(self) -> None:
        """One more."""
        self.left -= 1
        if self.left == 0:
            self.reached.set()
