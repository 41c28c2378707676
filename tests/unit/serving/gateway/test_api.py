"""The public API in front of an engine: names, keys, error shapes, streams, clients that leave."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from pydantic import JsonValue

from finetune_serving.gateway import hold
from finetune_serving.gateway.routing import RouteTable
from tests.engine_stand_in import error
from tests.unit.serving.gateway.builders import BODY, CHAT, Client, Engine, Setup


async def test_an_alias_is_answered_by_its_version_and_says_so(client: Client) -> None:
    response = await client.post(CHAT, json=BODY)
    assert response.status == 200
    assert (await response.json())["model"] == "reviews--1"
    assert response.headers["x-finetune-version"] == "reviews--1"


async def test_the_base_answers_to_its_name(client: Client) -> None:
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
    client: Client, method: str, path: str, content: bytes | None, status: int, code: str | None
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
    client: Client, setup: Setup, engine: Engine, asked: dict[str, Any], seen: Any
) -> None:
    trained: dict[str, JsonValue] = {"enable_thinking": False, "date_string": "1 May 2026"}
    setup.book.template_kwargs = {"reviews--1": trained}
    await client.post(CHAT, json=BODY | asked)
    assert engine.bodies[-1]["chat_template_kwargs"] == seen


@pytest.mark.parametrize("value", ["no", "", [], ["x"], 0, 1, False, True], ids=repr)
@pytest.mark.parametrize("trained", [{}, {"enable_thinking": False}], ids=["no defaults", "defaults"])
async def test_template_options_that_are_no_object_are_refused(
    client: Client, setup: Setup, engine: Engine, value: Any, trained: dict[str, Any]
) -> None:
    setup.book.template_kwargs = {"reviews--1": trained}
    response = await client.post(CHAT, json=BODY | {"chat_template_kwargs": value})
    assert (response.status, engine.bodies) == (400, [])
    assert (await response.json())["error"]["param"] == "chat_template_kwargs"


async def test_what_no_template_renders_gets_nothing_for_it(
    client: Client, setup: Setup, engine: Engine
) -> None:
    setup.book.template_kwargs = {"reviews--1": {"enable_thinking": False}}
    await client.post("/v1/completions", json={"model": "reviews", "prompt": "x"})
    await client.post(CHAT, json=BODY | {"model": "base"})
    assert all("chat_template_kwargs" not in body for body in engine.bodies)


async def test_models_are_listed_and_found_by_name(client: Client) -> None:
    listed = await (await client.get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]] == ["base", "reviews"]
    one = await (await client.get("/v1/models/reviews")).json()
    assert (one["root"], one["parent"], one["max_model_len"]) == ("reviews--1", "base", 4096)


async def test_models_are_listed_while_the_engine_is_down(client: Client, engine: Engine) -> None:
    await engine.stop()
    assert "max_model_len" not in (await (await client.get("/v1/models")).json())["data"][0]


async def test_the_key_does_not_reach_the_engine(client: Client, engine: Engine) -> None:
    await client.post(CHAT, json=BODY, headers={"Authorization": "Bearer secret"})
    assert {"Authorization", "x-api-key"}.isdisjoint(engine.headers[0])


async def test_an_engine_that_is_gone_is_a_503_with_a_time_to_retry(
    client: Client, setup: Setup, engine: Engine
) -> None:
    await engine.stop()
    response = await client.post(CHAT, json=BODY)
    assert response.status == 503
    assert response.headers["Retry-After"] == "2"
    assert (await response.json())["error"]["type"] == "server_error"
    assert setup.book.trouble.is_set()
    assert setup.ledger.tally("reviews--1").failures == 1


async def test_an_engine_that_lost_a_version_is_a_503_not_a_404(
    client: Client, setup: Setup, engine: Engine
) -> None:
    engine.loaded.clear()
    assert (await client.post(CHAT, json=BODY)).status == 503
    assert setup.book.trouble.is_set()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("Not Found", id="an API that the engine does not have"),
        pytest.param("The tool `search` does not exist.", id="something else that does not exist"),
    ],
)
async def test_a_404_that_no_load_can_mend_is_the_answer_at_once(
    client: Client, setup: Setup, engine: Engine, message: str
) -> None:
    async def reply(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return error(404, message)

    engine.reply = reply
    response = await client.post(CHAT, json=BODY)
    assert (response.status, (await response.json())["error"]["message"]) == (404, message)
    assert len(engine.bodies) == 1
    assert not setup.book.trouble.is_set()


async def test_a_version_that_is_not_loaded_is_not_asked(
    client: Client, setup: Setup, engine: Engine
) -> None:
    setup.book.loaded = frozenset()
    assert (await client.post(CHAT, json=BODY)).status == 503
    assert engine.bodies == []


async def test_before_the_first_routes_every_name_may_still_come(client: Client, setup: Setup) -> None:
    setup.book.table = RouteTable()
    assert (await client.post(CHAT, json=BODY)).status == 503


async def test_an_alias_that_cannot_be_had_is_a_503_with_its_reason(
    client: Client, setup: Setup, engine: Engine
) -> None:
    setup.book.loaded = frozenset()
    setup.book.unavailable = {"reviews": "The model `reviews` cannot be had: its files are missing."}
    response = await client.post(CHAT, json=BODY)
    assert response.status == 503
    assert "files are missing" in (await response.json())["error"]["message"]
    assert (await client.post(CHAT, json=BODY | {"model": "base"})).status == 200


async def test_a_request_that_meets_a_restarting_engine_is_held_until_it_is_back(
    client: Client, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
    setup.book.engine_up = False
    asked = asyncio.create_task(client.post(CHAT, json=BODY))
    await _until_held(setup)
    setup.book.engine_up = True
    setup.book.announce()
    assert (await asked).status == 200


async def test_a_version_that_the_engine_lost_is_asked_again_when_it_is_back(
    client: Client, setup: Setup, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
    engine.loaded.clear()
    asked = asyncio.create_task(client.post(CHAT, json=BODY))
    for _ in range(2):
        await _until_held(setup)
        setup.book.announce()
        await asyncio.sleep(0)
    await _until_held(setup)
    engine.loaded.add("reviews--1")
    setup.book.announce()
    assert (await asked).status == 200


async def test_no_more_are_held_than_fit(
    client: Client, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
    monkeypatch.setattr(hold, "HOLD_MOST", 1)
    setup.book.engine_up = False
    held = asyncio.create_task(client.post(CHAT, json=BODY))
    await _until_held(setup)
    assert (await client.post(CHAT, json=BODY)).status == 503
    setup.book.engine_up = True
    setup.book.announce()
    assert (await held).status == 200


async def test_an_alias_that_is_stuck_leaves_places_to_the_others(
    client: Client, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
    monkeypatch.setattr(hold, "HOLD_MOST", 4)
    setup.book.engine_up = False
    stuck = [asyncio.create_task(client.post(CHAT, json=BODY)) for _ in range(4)]
    refused, _ = await asyncio.wait(stuck, return_when=asyncio.FIRST_COMPLETED)
    asked = asyncio.create_task(client.post(CHAT, json=BODY | {"model": "base"}))
    await _until_held(setup, "base")
    setup.book.engine_up = True
    setup.book.announce()
    assert (await asked).status == 200
    assert sorted([response.status for response in await asyncio.gather(*stuck)]) == [200, 200, 503, 503]
    assert {(await one).status for one in refused} == {503}
    assert not setup.gateway.hold.waiting


async def test_a_request_that_no_engine_took_is_sent_to_the_next_one(
    client: Client, setup: Setup, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "HOLD_SECONDS", 30.0)
    await engine.stop()
    asked = asyncio.create_task(client.post(CHAT, json=BODY))
    async with asyncio.timeout(10):
        await setup.book.trouble.wait()
    await _until_held(setup)
    await engine.start()
    setup.book.announce()
    assert (await asked).status == 200


async def test_a_pooled_connection_that_the_engine_closed_costs_no_request(
    client: Client, engine: Engine
) -> None:
    """The engine ends every connection without an answer the first time it is asked on it."""
    broken: list[web.Request] = []

    async def reply(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not broken and request.transport is not None:
            broken.append(request)
            request.transport.abort()
        return web.json_response({"model": body["model"]})

    engine.reply = reply
    assert (await client.post(CHAT, json=BODY)).status == 200
    assert len(engine.bodies) == 2


async def test_what_ends_the_engine_is_not_sent_a_third_time(client: Client, engine: Engine) -> None:
    async def reply(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    engine.reply = reply
    assert (await client.post(CHAT, json=BODY)).status == 503
    assert len(engine.bodies) == 2


async def test_the_death_of_the_engines_core_is_a_503_that_wakes_the_agent(
    client: Client, setup: Setup, engine: Engine
) -> None:
    async def reply(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        text = "EngineCore encountered an issue. See stack trace (above) for the root cause."
        error = {"message": text, "type": "InternalServerError", "param": None, "code": 500}
        return web.json_response({"error": error}, status=500)

    engine.reply = reply
    response = await client.post(CHAT, json=BODY)
    assert (response.status, response.headers["Retry-After"]) == (503, "2")
    assert "stack trace" not in await response.text()
    assert setup.book.trouble.is_set()


async def test_what_the_engine_refuses_is_no_failure_of_it(
    client: Client, setup: Setup, engine: Engine
) -> None:
    async def reply(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "too long", "type": "BadRequestError"}}, status=400)

    engine.reply = reply
    assert (await client.post(CHAT, json=BODY)).status == 400
    tally = setup.ledger.tally("reviews--1")
    assert (tally.requests, tally.failures, setup.book.trouble.is_set()) == (1, 0, False)


async def test_traces_and_request_ids_pass_and_retry_after_comes_back(client: Client, engine: Engine) -> None:
    async def reply(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "full"}}, status=429, headers={"Retry-After": "7"})

    engine.reply = reply
    sent = {"traceparent": "00-1-2-01", "tracestate": "a=b", "x-request-id": "mine", "x-other": "no"}
    response = await client.post(CHAT, json=BODY, headers=sent)
    assert (response.headers["Retry-After"], response.headers["x-request-id"]) == ("7", "mine")
    seen = engine.headers[0]
    assert (seen["traceparent"], seen["tracestate"], seen["x-request-id"]) == ("00-1-2-01", "a=b", "mine")
    assert "x-other" not in seen


@pytest.mark.parametrize("given", [{}, {"x-request-id": "a b"}, {"x-request-id": "x" * 200}], ids=repr)
async def test_a_request_without_a_usable_id_gets_one(
    client: Client, engine: Engine, given: dict[str, str]
) -> None:
    response = await client.post(CHAT, json=BODY, headers=given)
    assert response.headers["x-request-id"] == engine.headers[0]["x-request-id"]
    assert len(response.headers["x-request-id"]) == 32


async def test_health_needs_no_key_and_says_whether_the_pod_is_ready(client: Client, setup: Setup) -> None:
    assert (await client.get("/health")).status == 200
    setup.book.closing = True
    assert (await client.get("/health")).status == 503
    setup.book.closing, setup.book.ready = False, False
    assert (await client.get("/health")).status == 503


async def test_a_broken_encoding_is_the_clients_mistake(client: Client) -> None:
    response = await client.post(CHAT, data=b"no gzip", headers={"Content-Encoding": "gzip"})
    assert response.status == 400
    assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_a_defect_of_the_gateway_is_an_error_in_openais_shape(
    client: Client, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.book, "can_answer", None)
    response = await client.post(CHAT, json=BODY)
    assert response.status == 500
    assert (await response.json())["error"]["type"] == "server_error"


async def test_a_failure_is_logged_with_what_finds_it_again(
    client: Client, setup: Setup, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "broken"}}, status=500)

    engine.reply = fail
    await client.post(CHAT, json=BODY, headers={"x-request-id": "mine"})
    await client.post(CHAT, json={})
    setup.book.engine_up = False
    await client.post(CHAT, json=BODY)
    (record,) = caplog.records
    version = {"key": "", "alias": "reviews", "version": "reviews--1"}
    assert record.__dict__["fields"] == {"requestId": "mine", **version, "status": 500}


async def test_anthropics_clients_get_their_own_error_shape(client: Client) -> None:
    response = await client.post("/v1/messages", json={"model": "nobody"})
    assert response.status == 404
    body = await response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_responses_and_messages_reach_the_version(client: Client, engine: Engine, path: str) -> None:
    response = await client.post(path, json={"model": "reviews", "input": "hi", "store": True})
    assert (response.status, engine.bodies[0]["model"]) == (200, "reviews--1")


async def test_a_header_asks_for_one_version_of_an_alias(
    client: Client, setup: Setup, engine: Engine
) -> None:
    targets = [{"version": "reviews--1", "weight": 100}, {"version": "reviews--2", "weight": 0}]
    setup.manifest(routes=[{"alias": "reviews", "targets": targets}])
    engine.loaded.add("reviews--2")
    answered = await client.post(CHAT, json=BODY, headers={"x-finetune-version": "reviews--2"})
    assert answered.headers["x-finetune-version"] == "reviews--2"
    unknown = await client.post(CHAT, json=BODY, headers={"x-finetune-version": "reviews--3"})
    assert unknown.status == 404
    assert "reviews--1, reviews--2" in (await unknown.json())["error"]["message"]


@pytest.mark.parametrize(
    ("header", "body"),
    [
        pytest.param({"x-user": "anna"}, {}, id="by the header that the route names"),
        pytest.param({}, {"user": "anna"}, id="by the user of the body"),
    ],
)
async def test_a_caller_stays_with_one_version(
    client: Client, setup: Setup, engine: Engine, header: dict[str, str], body: dict[str, str]
) -> None:
    targets = [{"version": "reviews--1", "weight": 50}, {"version": "reviews--2", "weight": 50}]
    setup.manifest(routes=[{"alias": "reviews", "targets": targets, "stickyHeader": "x-user"}])
    engine.loaded.add("reviews--2")
    for _ in range(12):
        await client.post(CHAT, json=BODY | body, headers=header)
    assert len({seen["model"] for seen in engine.bodies}) == 1


async def test_a_shadow_gets_copies_that_nobody_waits_for(
    client: Client, setup: Setup, engine: Engine
) -> None:
    shadow = {"version": "trial--1", "percent": 100}
    targets = [{"version": "reviews--1", "weight": 100}]
    setup.manifest(routes=[{"alias": "reviews", "targets": targets, "shadow": shadow}])
    setup.book.loaded |= {"trial--1"}
    engine.loaded.add("trial--1")
    engine.hold = asyncio.Event()

    async def reply(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == "trial--1":
            await engine.pause()
        return web.json_response({"model": body["model"]})

    engine.reply = reply
    response = await client.post(CHAT, json=BODY)
    assert response.headers["x-finetune-version"] == "reviews--1"
    assert setup.ledger.tally("trial--1").in_flight == 1
    engine.hold.set()
    await setup.finished()
    assert setup.ledger.tally("trial--1").requests == 0
    assert 'shadow_requests_total{alias="reviews",code="200",version="trial--1"} 1.0' in setup.metrics()


async def _until_held(setup: Setup, alias: str = "reviews") -> None:
    async with asyncio.timeout(10):
        while not setup.gateway.hold.waiting[alias]:  # noqa: ASYNC110 - the gateway has no event for a test
            await asyncio.sleep(0)
