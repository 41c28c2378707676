"""The public API in front of a stand-in engine: names, keys, error shapes, streams, clients that leave."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, generate_latest

from finetune_serving.documents import ServerManifest
from finetune_serving.gateway.app import Gateway
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Ledger
from finetune_serving.gateway.routing import RouteTable, table_of

LIMIT = 4096
BODY = {"model": "reviews", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


class Setup:
    """A gateway whose alias `reviews` is answered by `reviews--1`."""

    def __init__(self, engine: aiohttp.ClientSession, keys: Path | None) -> None:
        manifest = {
            "schemaVersion": 1,
            "generation": 1,
            "base": {"name": "base"},
            "routes": [{"alias": "reviews", "targets": [{"version": "reviews--1"}]}],
        }
        self.registry = CollectorRegistry()
        self.ledger = Ledger(self.registry)
        self.book = Book(table_of(ServerManifest.model_validate(manifest)), frozenset({"reviews--1"}))
        self.book.engine_up = True
        self.gateway = Gateway(engine, self.book, KeyRing(keys), self.ledger, LIMIT)


@pytest.fixture
async def setup(stand_in: Any, tmp_path: Path) -> AsyncIterator[Setup]:
    stand_in.loras["reviews--1"] = "/x"
    connector = aiohttp.UnixConnector(str(stand_in.path), force_close=True)
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:
        yield Setup(session, None)


@pytest.fixture
async def client(setup: Setup) -> AsyncIterator[TestClient[Any, Any]]:
    server = TestServer(setup.gateway.app())
    await server.start_server()
    async with TestClient(server) as client:
        yield client


async def test_an_alias_is_answered_by_its_version_and_says_so(client: TestClient[Any, Any]) -> None:
    response = await client.post(CHAT, json=BODY)
    assert response.status == 200
    assert (await response.json())["model"] == "reviews--1"
    assert response.headers["x-finetune-version"] == "reviews--1"


async def test_the_base_answers_to_its_name(client: TestClient[Any, Any]) -> None:
    response = await client.post("/v1/completions", json={"model": "base", "prompt": "x"})
    assert (await response.json())["model"] == "base"


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        pytest.param("POST", CHAT, b"{", 400, None, id="broken JSON"),
        pytest.param("POST", CHAT, b"[]", 400, None, id="JSON that is no object"),
        pytest.param("POST", CHAT, b"\xff\xfe", 400, None, id="bytes that are no text"),
        pytest.param("POST", CHAT, b"[" * 4000, 400, None, id="JSON nested beyond reason"),
        pytest.param("POST", CHAT, b"{}", 400, None, id="no model"),
        pytest.param("POST", CHAT, b'{"model": 7}', 400, None, id="a model that is no name"),
        pytest.param("POST", CHAT, b'{"model": "reviews--1"}', 404, "model_not_found", id="a version's name"),
        pytest.param(
            "POST", CHAT, b'{"model": "reviews", "prompt_logprobs": 1}', 400, None, id="what kills the engine"
        ),
        pytest.param(
            "POST",
            "/v1/completions",
            b'{"model": "reviews", "prompt": "x", "echo": true, "logprobs": 0}',
            400,
            None,
            id="the same by another name",
        ),
        pytest.param("POST", CHAT, b"x" * (LIMIT + 1), 413, None, id="a body beyond the limit"),
        pytest.param("GET", CHAT, None, 404, "unknown_url", id="the wrong method"),
        pytest.param("GET", "/v1/models/nobody", None, 404, "model_not_found", id="an unknown model"),
        pytest.param("POST", "/v1/load_lora_adapter", b"{}", 404, "unknown_url", id="loading from outside"),
        pytest.param("POST", "/adapters", b"{}", 404, "unknown_url", id="loading by the other door"),
        pytest.param("DELETE", "/adapters/x", None, 404, "unknown_url", id="removing by the other door"),
        pytest.param("POST", "/internal/remove_lora", b"{}", 404, "unknown_url", id="our private route"),
        pytest.param("GET", "/metrics", None, 404, "unknown_url", id="the engine's metrics"),
        pytest.param("GET", "/", None, 404, "unknown_url", id="the root"),
    ],
)
async def test_errors_have_openai_shape(
    client: TestClient[Any, Any], method: str, path: str, content: bytes | None, status: int, code: str | None
) -> None:
    response = await client.request(method, path, data=content)
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith((".", "do."))


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        pytest.param(
            {}, {"enable_thinking": False, "date_string": "1 May 2026"}, id="a client that says nothing"
        ),
        pytest.param(
            {"chat_template_kwargs": {"enable_thinking": True}},
            {"enable_thinking": True, "date_string": "1 May 2026"},
            id="a client that asks for one of them",
        ),
        pytest.param(
            {"chat_template_kwargs": None},
            {"enable_thinking": False, "date_string": "1 May 2026"},
            id="a client that says null",
        ),
    ],
)
async def test_prompts_are_rendered_as_in_training_unless_the_client_asks(
    client: TestClient[Any, Any], setup: Setup, stand_in: Any, asked: dict[str, Any], seen: Any
) -> None:
    trained = {"enable_thinking": False, "date_string": "1 May 2026"}
    setup.book.template_kwargs = {"reviews--1": trained}
    await client.post(CHAT, json=BODY | asked)
    assert stand_in.bodies[-1]["chat_template_kwargs"] == seen


@pytest.mark.parametrize("value", ["no", "", [], ["x"], 0, 1, False, True], ids=repr)
@pytest.mark.parametrize("trained", [{}, {"enable_thinking": False}], ids=["no defaults", "defaults"])
async def test_template_options_that_are_no_object_are_refused(
    client: TestClient[Any, Any], setup: Setup, stand_in: Any, value: Any, trained: dict[str, Any]
) -> None:
    setup.book.template_kwargs = {"reviews--1": trained}
    response = await client.post(CHAT, json=BODY | {"chat_template_kwargs": value})
    assert (response.status, stand_in.bodies) == (400, [])
    assert (await response.json())["error"]["param"] == "chat_template_kwargs"


async def test_what_no_template_renders_gets_nothing_for_it(
    client: TestClient[Any, Any], setup: Setup, stand_in: Any
) -> None:
    setup.book.template_kwargs = {"reviews--1": {"enable_thinking": False}}
    await client.post("/v1/completions", json={"model": "reviews", "prompt": "x"})
    await client.post(CHAT, json=BODY | {"model": "base"})
    assert all("chat_template_kwargs" not in body for body in stand_in.bodies)


async def test_models_are_listed_and_found_by_name(client: TestClient[Any, Any]) -> None:
    listed = await (await client.get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]] == ["base", "reviews"]
    assert (await (await client.get("/v1/models/reviews")).json())["root"] == "reviews--1"


async def test_a_wrong_key_gets_nothing_not_even_the_list(setup: Setup, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "team").write_text("secret")
    gateway = Gateway(setup.gateway.engine, setup.book, KeyRing(folder), setup.ledger, LIMIT)
    async with TestClient(TestServer(gateway.app())) as client:
        for path in ("/v1/models", "/nowhere"):
            refused = await client.get(path, headers={"Authorization": "Bearer wrong"})
            assert (await refused.json())["error"]["code"] == "invalid_api_key"
            assert refused.status == 401
        accepted = await client.get("/v1/models", headers={"Authorization": "Bearer secret"})
        assert accepted.status == 200


async def test_the_key_does_not_reach_the_engine(client: TestClient[Any, Any], stand_in: Any) -> None:
    await client.post(CHAT, json=BODY, headers={"Authorization": "Bearer secret"})
    assert stand_in.seen == ["reviews--1"]


async def test_a_stream_arrives_while_it_is_made(client: TestClient[Any, Any], stand_in: Any) -> None:
    stand_in.hold = asyncio.Event()
    response = await client.post(CHAT, json={**BODY, "stream": True})
    first = await response.content.readuntil(b"\n\n")
    assert json.loads(first.removeprefix(b"data: "))["model"] == "reviews--1"
    stand_in.hold.set()
    assert await response.content.read() == b"data: [DONE]\n\n"


async def test_a_broken_stream_does_not_look_complete(
    client: TestClient[Any, Any], setup: Setup, stand_in: Any
) -> None:
    stand_in.break_streams = True
    response = await client.post(CHAT, json={**BODY, "stream": True})
    with pytest.raises(aiohttp.ClientError):
        await response.content.read()
    await setup.ledger.idle()
    assert setup.ledger.tally("reviews--1").failures == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_engine(
    client: TestClient[Any, Any], setup: Setup, stand_in: Any, stream: bool
) -> None:
    stand_in.hold = asyncio.Event()
    asked = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": stream}))
    await stand_in.started.wait()
    assert setup.ledger.tally("reviews--1").in_flight == 1
    if stream:
        (await asked).close()
    else:
        asked.cancel()
    async with asyncio.timeout(30):
        await stand_in.cancelled.wait()
        await setup.ledger.idle()
    assert setup.ledger.tally("reviews--1").failures == 0


async def test_an_engine_that_is_gone_is_a_503_with_a_time_to_retry(
    client: TestClient[Any, Any], setup: Setup, stand_in: Any
) -> None:
    await stand_in.stop()
    response = await client.post(CHAT, json=BODY)
    assert response.status == 503
    assert response.headers["Retry-After"] == "2"
    assert (await response.json())["error"]["type"] == "server_error"
    assert setup.book.trouble.is_set()
    assert setup.ledger.tally("reviews--1").failures == 1


async def test_an_engine_that_lost_a_version_is_a_503_not_a_404(
    client: TestClient[Any, Any], setup: Setup, stand_in: Any
) -> None:
    stand_in.loras.clear()
    assert (await client.post(CHAT, json=BODY)).status == 503
    assert setup.book.trouble.is_set()


async def test_a_version_that_is_not_loaded_is_not_asked(
    client: TestClient[Any, Any], setup: Setup, stand_in: Any
) -> None:
    setup.book.loaded = frozenset()
    assert (await client.post(CHAT, json=BODY)).status == 503
    assert stand_in.seen == []


async def test_a_closing_server_sends_its_clients_elsewhere(
    client: TestClient[Any, Any], setup: Setup
) -> None:
    setup.book.closing = True
    response = await client.post(CHAT, json=BODY)
    assert response.status == 200
    assert response.headers["Connection"] == "close"


async def test_a_forgotten_version_leaves_no_series_behind(
    client: TestClient[Any, Any], setup: Setup
) -> None:
    await client.post(CHAT, json=BODY)
    assert b'version="reviews--1"' in generate_latest(setup.registry)
    setup.ledger.forget("reviews--1")
    assert b'version="reviews--1"' not in generate_latest(setup.registry)
    assert setup.ledger.tally("reviews--1").requests == 0


async def test_before_the_first_routes_every_name_may_still_come(
    client: TestClient[Any, Any], setup: Setup
) -> None:
    setup.book.table = RouteTable()
    assert (await client.post(CHAT, json=BODY)).status == 503
