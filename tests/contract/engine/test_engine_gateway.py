"""What the gateway relies on in real vLLM: who refuses what, and what streams and answers say."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from finetune_serving.gateway.answers import read_answer

pytestmark = [pytest.mark.engine, pytest.mark.slow]
MESSAGES = [{"role": "user", "content": "the patient took medicine"}]
Adapters = dict[str, dict[str, Any]]


@pytest.fixture
def url(server: Any, adapters: Adapters) -> str:
    """The API of a server that serves `reviews` from the first adapter."""
    one = adapters["one"]
    generation = server.state()["generation"] + 1
    server.write(generation, [one], reviews=one["name"])
    server.until(lambda state: state["ready"] and state["appliedGeneration"] == generation)
    return str(server.url)


@pytest.fixture
async def client(server: Any, url: str) -> Any:
    headers = {"Authorization": f"Bearer {server.key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("path", "more"),
    [
        pytest.param("/chat/completions", {"messages": MESSAGES, "echo": True}, id="a chat with echo"),
        pytest.param("/chat/completions", {"messages": MESSAGES, "prompt_logprobs": 0}, id="a chat by name"),
        pytest.param("/completions", {"prompt": "the", "prompt_logprobs": 1}, id="a completion by name"),
        pytest.param(
            "/completions", {"prompt": "the", "echo": True, "logprobs": 1}, id="a completion with echo"
        ),
    ],
)
async def test_what_could_end_the_engine_is_refused_by_its_meaning(
    client: httpx.AsyncClient, server: Any, path: str, more: dict[str, Any], stream: bool
) -> None:
    """Twice at once beside a request of the adapter, as two rows of one batch are what ended it."""
    engine = server.state()["engineId"]
    body = {"model": "reviews", "max_tokens": 8, "stream": stream, **more}
    healthy = {"model": "reviews", "max_tokens": 8, "messages": MESSAGES}
    answers = await asyncio.gather(
        client.post(path, json=body),
        client.post(path, json=body | {"model": "tiny"}),
        client.post("/chat/completions", json=healthy),
    )
    assert [answer.status_code for answer in answers] == [400, 400, 200]
    assert "prompt" in answers[0].json()["error"]["message"]
    assert server.state()["engineId"] == engine


async def test_echo_without_probabilities_is_answered(client: httpx.AsyncClient) -> None:
    body = {"model": "reviews", "prompt": "the quick", "echo": True, "max_tokens": 2}
    answer = await client.post("/completions", json=body)
    assert answer.json()["choices"][0]["text"].startswith("the quick")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/chat/completions", {"messages": MESSAGES, "max_tokens": 3}, id="chat"),
        pytest.param("/completions", {"prompt": "the quick", "max_tokens": 3}, id="completion"),
        pytest.param("/messages", {"messages": MESSAGES, "max_tokens": 3}, id="message"),
        pytest.param("/responses", {"input": "the quick", "max_output_tokens": 3}, id="response"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_tokens_text_and_ends_of_every_api_are_read(
    client: httpx.AsyncClient, server: Any, adapters: Adapters, path: str, body: dict[str, Any], stream: bool
) -> None:
    before = _version(server, adapters)
    fixed = {"temperature": 0, "ignore_eos": True}  # messages know no ignore_eos
    answer = await client.post(path, json={"model": "reviews", "stream": stream, **body, **fixed})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-finetune-version"] == adapters["one"]["name"]
    after = _version(server, adapters)
    found = {name: after[name] - before[name] for name in ("requests", "failures", "empty", "cut")}
    assert found == {"requests": 1, "failures": 0, "empty": 0, "cut": 1}, answer.text
    text = (await client.get(f"{server.agent_url}/metrics")).text
    assert _tokens(text, "generated", adapters) > 0
    assert _tokens(text, "prompt", adapters) > 0
    assert "vllm:num_requests_running" in text


async def test_a_stream_shows_tokens_to_those_who_asked(client: httpx.AsyncClient) -> None:
    body = {"model": "reviews", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    quiet = await client.post("/chat/completions", json=body)
    asked = await client.post("/chat/completions", json=body | {"stream_options": {"include_usage": True}})
    assert ["usage" in answer.text for answer in (quiet, asked)] == [False, True]
    assert quiet.text.endswith("data: [DONE]\n\n")


async def test_answers_are_not_kept(client: httpx.AsyncClient) -> None:
    body = {"model": "reviews", "input": "the quick", "max_output_tokens": 3}
    first = (await client.post("/responses", json=body)).json()
    second = await client.post("/responses", json=body | {"previous_response_id": first["id"]})
    assert second.status_code == 400
    assert "keeps nothing" in second.json()["error"]["message"]


async def test_the_models_say_how_long_a_request_may_be(client: httpx.AsyncClient) -> None:
    assert {card["max_model_len"] for card in (await client.get("/models")).json()["data"]} == {256}


async def test_a_request_id_names_the_answer(client: httpx.AsyncClient) -> None:
    body = {"model": "reviews", "messages": MESSAGES, "max_tokens": 2}
    answer = await client.post("/chat/completions", json=body, headers={"x-request-id": "mine"})
    assert (answer.headers["x-request-id"], answer.json()["id"]) == ("mine", "chatcmpl-mine")
    assert read_answer(answer.content).generated_tokens == 2


async def test_idle_connections_to_the_engine_cost_no_request(client: httpx.AsyncClient) -> None:
    body = json.dumps({"model": "tiny", "prompt": "the", "max_tokens": 1})
    for _ in range(3):
        answers = await asyncio.gather(*(client.post("/completions", content=body) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}


def _version(server: Any, adapters: Adapters) -> dict[str, int]:
    name = adapters["one"]["name"]
    return dict(next(version for version in server.state()["versions"] if version["name"] == name))


def _tokens(metrics: str, kind: str, adapters: Adapters) -> float:
    start = f'finetune_gateway_{kind}_tokens_total{{alias="reviews",version="{adapters["one"]["name"]}"}} '
    return float(next(line for line in metrics.splitlines() if line.startswith(start)).removeprefix(start))
