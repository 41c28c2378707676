"""What is too much, and how it is said."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_serving.gateway import body, limits
from finetune_serving.gateway.errors import Refusal
from finetune_serving.gateway.limits import TokenRates
from tests.unit.serving.gateway.builders import BODY, CHAT, VERSION, Client, Engine, Setup

ANNA, BERT = {"Authorization": "Bearer key-a"}, {"Authorization": "Bearer key-b"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "anna").write_text("key-a")
    (folder / "bert").write_text("key-b")
    return folder


async def test_a_body_beyond_the_limit_is_a_413(client: Client, setup: Setup) -> None:
    setup.manifest(limits={"maxBodyBytes": 1000})
    response = await client.post(CHAT, data=b"x" * 1001, headers=ANNA)
    assert response.status == 413
    assert "1000 bytes" in (await response.json())["error"]["message"]


async def test_a_body_without_a_length_is_stopped_at_the_limit(client: Client, setup: Setup) -> None:
    setup.manifest(limits={"maxBodyBytes": 1000})

    async def parts() -> Any:
        for _ in range(3):
            yield b"x" * 500

    assert (await client.post(CHAT, data=parts(), headers=ANNA)).status == 413


async def test_bodies_are_taken_up_to_32_mib_by_default(client: Client) -> None:
    content = json.dumps({**BODY, "pad": "x" * 20 * 2**20}).encode()
    assert (await client.post(CHAT, data=content, headers=ANNA)).status == 200


async def test_a_body_that_does_not_come_is_a_408(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key-a\r\ncontent-length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"model"')
    assert b" 408 " in await reader.readline()
    assert b"Connection: close" in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_bodies_together_stay_within_the_memory(
    client: Client, setup: Setup, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_BODY_BYTES", 3000)
    engine.hold = asyncio.Event()
    large = BODY | {"pad": "x" * 2000}
    waiting = asyncio.create_task(client.post(CHAT, json=large, headers=ANNA))
    await engine.waiting.wait()
    assert (await client.post(CHAT, json=large, headers=ANNA)).status == 429
    engine.hold.set()
    assert (await waiting).status == 200
    await setup.finished()
    assert setup.ledger.body_bytes == 0
    assert (await client.post(CHAT, json=large, headers=ANNA)).status == 200


@pytest.mark.parametrize(
    ("limit", "first", "second", "answered"),
    [
        pytest.param({"maxInFlight": 1}, ("base", ANNA), ("reviews", BERT), False, id="of the pod"),
        pytest.param(
            {"maxInFlightPerAlias": 1}, ("reviews", ANNA), ("reviews", BERT), False, id="of an alias"
        ),
        pytest.param(
            {"maxInFlightPerAlias": 1}, ("reviews", ANNA), ("base", ANNA), True, id="of another alias"
        ),
        pytest.param({"maxInFlightPerKey": 1}, ("reviews", ANNA), ("base", ANNA), False, id="of a key"),
        pytest.param(
            {"maxInFlightPerKey": 1}, ("reviews", ANNA), ("reviews", BERT), True, id="of another key"
        ),
    ],
)
async def test_requests_in_flight_are_limited(
    client: Client, setup: Setup, engine: Engine, limit: Any, first: Any, second: Any, answered: bool
) -> None:
    setup.manifest(limits=limit)
    engine.hold = asyncio.Event()
    waiting = asyncio.create_task(client.post(CHAT, json=BODY | {"model": first[0]}, headers=first[1]))
    await engine.waiting.wait()
    engine.waiting.clear()
    other = asyncio.create_task(client.post(CHAT, json=BODY | {"model": second[0]}, headers=second[1]))
    if answered:
        await engine.waiting.wait()
    else:
        response = await other
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
        assert int(response.headers["Retry-After"]) > 0
    engine.hold.set()
    assert (await waiting).status == 200
    assert not answered or (await other).status == 200


async def test_a_key_that_used_its_tokens_waits(client: Client, setup: Setup) -> None:
    setup.manifest(limits={"tokensPerMinutePerKey": 9})
    assert (await client.post(CHAT, json=BODY, headers=ANNA)).status == 200
    refused = await client.post(CHAT, json=BODY, headers=ANNA)
    assert (refused.status, (await refused.json())["error"]["type"]) == (429, "tokens")
    assert 1 <= int(refused.headers["Retry-After"]) <= 8
    assert (await client.post(CHAT, json=BODY, headers=BERT)).status == 200


@pytest.mark.parametrize(
    ("options", "whole"),
    [
        pytest.param({}, False, id="a client that leaves before the count comes"),
        pytest.param(
            {"stream_options": {"include_usage": "false"}}, True, id="a client that hides the count"
        ),
    ],
)
async def test_tokens_are_paid_for_without_their_count(
    client: Client, setup: Setup, engine: Engine, options: dict[str, Any], whole: bool
) -> None:
    setup.manifest(limits={"tokensPerMinutePerKey": 1})
    engine.hold = asyncio.Event()
    response = await client.post(CHAT, json=BODY | {"stream": True} | options, headers=ANNA)
    await response.content.readuntil(b"\n\n")
    if whole:
        engine.hold.set()
        assert b"usage" not in await response.read()
    response.close()
    await setup.finished()
    engine.hold = None
    assert (await client.post(CHAT, json=BODY, headers=ANNA)).status == 429


def test_tokens_come_back_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rates = TokenRates()
    rates.spend("anna", 60, 90)
    with pytest.raises(Refusal) as refused:
        rates.check("anna", 60)
    assert refused.value.retry_after == 31
    now[0] += 31
    rates.check("anna", 60)


@pytest.mark.parametrize(
    ("content", "param"),
    [
        pytest.param({"n": 129}, "n", id="more answers than may be"),
        pytest.param({"n": "129"}, "n", id="a number as text, which the engine reads as well"),
        pytest.param({"n": " 1_000 "}, "n", id="a number as Python writes it"),
        pytest.param({"prompt": ["x"] * 129}, "prompt", id="more prompts than may be"),
        pytest.param({"prompt": [[1]] * 129}, "prompt", id="more prompts of tokens than may be"),
        pytest.param({"n": 128}, None, id="as many answers as may be"),
        pytest.param({"n": None}, None, id="no number of answers"),
        pytest.param({"n": "many"}, None, id="a number that the engine refuses itself"),
        pytest.param({"prompt": ["x"] * 128}, None, id="as many prompts as may be"),
        pytest.param({"prompt": [1] * 500}, None, id="one long prompt of tokens"),
        pytest.param({"prompt": "a, b, " * 200}, None, id="one long prompt with commas"),
        pytest.param({"prompt": ["a, b, " * 200]}, None, id="a list of one prompt with commas"),
    ],
)
async def test_answers_and_prompts_per_request_are_limited(
    client: Client, content: dict[str, Any], param: str | None
) -> None:
    response = await client.post("/v1/completions", json={"model": "base", **content}, headers=ANNA)
    error = (await response.json()).get("error", {})
    assert (response.status, error.get("param")) == ((200, None) if param is None else (400, param))


async def test_a_key_calls_what_it_may(client: Client, setup: Setup, engine: Engine) -> None:
    setup.manifest(keys=[{"name": "anna", "aliases": ["reviews"]}])
    refused = await client.post(CHAT, json=BODY | {"model": "base"}, headers=ANNA)
    error = (await refused.json())["error"]
    assert (refused.status, error["code"]) == (403, "model_not_found")
    assert "`anna`" in error["message"]
    assert (await client.post(CHAT, json=BODY, headers=ANNA)).status == 200
    assert (await client.post(CHAT, json=BODY | {"model": "base"}, headers=BERT)).status == 200
    listed = await (await client.get("/v1/models", headers=ANNA)).json()
    assert [card["id"] for card in listed["data"]] == ["reviews"]


CANDIDATE = "candidate.run--1"
ASKED = BODY | {"model": CANDIDATE}


@pytest.fixture
def trial(setup: Setup, engine: Engine) -> Setup:
    """A server that holds a candidate for anna's key."""
    engine.loaded.add(CANDIDATE)
    setup.manifest(candidates=[{"version": CANDIDATE, "key": "anna"}])
    return setup


async def test_a_candidate_answers_the_key_of_its_run_and_does_not_exist_for_others(
    client: Client, trial: Setup, engine: Engine
) -> None:
    answer = await client.post(CHAT, json=ASKED, headers=ANNA)
    assert (answer.status, (await answer.json())["model"]) == (200, CANDIDATE)
    refused = await client.post(CHAT, json=ASKED, headers=BERT)
    unknown = await client.post(CHAT, json=BODY | {"model": "candidate.run--2"}, headers=BERT)
    assert (refused.status, unknown.status) == (404, 404)
    told = [(await one.json())["error"]["message"] for one in (refused, unknown)]
    assert told[0].replace("--1", "--2") == told[1]
    assert [body["model"] for body in engine.bodies] == [CANDIDATE]


async def test_a_candidate_is_listed_for_nobody(client: Client, trial: Setup) -> None:
    for headers in (ANNA, BERT):
        cards = (await (await client.get("/v1/models", headers=headers)).json())["data"]
        assert [card["id"] for card in cards] == ["base", "reviews"]


async def test_a_key_that_is_gone_from_the_manifest_opens_no_candidate(client: Client, trial: Setup) -> None:
    trial.manifest(candidates=[{"version": CANDIDATE, "key": None}])
    assert (await client.post(CHAT, json=ASKED, headers=ANNA)).status == 404


async def test_a_candidate_that_is_refused_says_so_for_good(client: Client, trial: Setup) -> None:
    trial.book.loaded = frozenset({VERSION})
    trial.book.refused = {CANDIDATE: "RankTooLarge: its rank is 128."}
    refused = await client.post(CHAT, json=ASKED, headers=ANNA)
    error = (await refused.json())["error"]
    assert (refused.status, error["code"]) == (409, "candidate_refused")
    assert "its rank is 128" in error["message"]


async def test_a_candidate_that_is_on_its_way_is_waited_for(client: Client, trial: Setup) -> None:
    trial.book.loaded = frozenset({VERSION})
    refused = await client.post(CHAT, json=ASKED, headers=ANNA)
    assert (refused.status, "Retry-After" in refused.headers) == (503, True)


async def test_a_candidate_has_two_places(client: Client, trial: Setup, engine: Engine) -> None:
    engine.hold = asyncio.Event()
    waiting = []
    for _ in range(2):
        waiting.append(asyncio.create_task(client.post(CHAT, json=ASKED, headers=ANNA)))
        await engine.waiting.wait()
        engine.waiting.clear()
    refused = await client.post(CHAT, json=ASKED, headers=ANNA)
    assert (refused.status, "Retry-After" in refused.headers) == (429, True)
    other = asyncio.create_task(client.post(CHAT, json=BODY, headers=ANNA))
    await engine.waiting.wait()
    engine.hold.set()
    assert [(await one).status for one in (*waiting, other)] == [200, 200, 200]


SCORES = {"x-finetune-scoring": "1"}


async def test_runs_that_score_share_two_places_whatever_they_ask(
    client: Client, trial: Setup, engine: Engine
) -> None:
    engine.hold = asyncio.Event()
    waiting = []
    for asked in (ASKED, BODY | {"model": "base"}):
        waiting.append(asyncio.create_task(client.post(CHAT, json=asked, headers=ANNA | SCORES)))
        await engine.waiting.wait()
        engine.waiting.clear()
    async with asyncio.timeout(10):  # one that is let in is held
        refused = await client.post(CHAT, json=BODY | {"model": "base"}, headers=BERT | SCORES)
    assert (refused.status, "Retry-After" in refused.headers) == (429, True)
    user = asyncio.create_task(client.post(CHAT, json=BODY | {"model": "base"}, headers=BERT))
    await engine.waiting.wait()
    engine.hold.set()
    assert [(await one).status for one in (*waiting, user)] == [200, 200, 200]


async def test_a_run_that_asks_the_base_waits_while_users_need_the_replica(
    client: Client, trial: Setup, engine: Engine
) -> None:
    trial.manifest(limits={"maxInFlight": 2})
    engine.hold = asyncio.Event()
    user = asyncio.create_task(client.post(CHAT, json=BODY, headers=BERT))
    await engine.waiting.wait()
    async with asyncio.timeout(10):  # one that is let in is held
        refused = await client.post(CHAT, json=BODY | {"model": "base"}, headers=BERT | SCORES)
    assert refused.status == 429
    engine.hold.set()
    assert (await user).status == 200


async def test_a_candidate_waits_while_users_need_the_replica(
    client: Client, trial: Setup, engine: Engine
) -> None:
    trial.manifest(candidates=[{"version": CANDIDATE, "key": "anna"}], limits={"maxInFlight": 2})
    engine.hold = asyncio.Event()
    waiting = asyncio.create_task(client.post(CHAT, json=BODY, headers=BERT))
    await engine.waiting.wait()
    refused = await client.post(CHAT, json=ASKED, headers=ANNA)
    assert (refused.status, "Retry-After" in refused.headers) == (429, True)
    engine.hold.set()
    assert (await waiting).status == 200
    assert (await client.post(CHAT, json=ASKED, headers=ANNA)).status == 200


async def test_a_wrong_key_gets_nothing_not_even_the_list(client: Client) -> None:
    for path in ("/v1/models", "/nowhere"):
        refused = await client.get(path, headers={"Authorization": "Bearer wrong"})
        assert (refused.status, (await refused.json())["error"]["code"]) == (401, "invalid_api_key")
    assert (await client.get("/v1/models", headers=ANNA)).status == 200
    assert (await client.get("/v1/models", headers={"x-api-key": "key-b"})).status == 200
    assert (await client.get("/health")).status == 200


async def test_a_key_that_is_no_text_is_a_wrong_key(client: Client) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer \xff\xfe\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()
