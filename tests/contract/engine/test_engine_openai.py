"""The official OpenAI client against the gateway in front of real vLLM, while adapters come and go."""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]
IN_FLIGHT = 5
ASK: Any = [{"role": "user", "content": "the patient took medicine and slept"}]
Adapters = dict[str, dict[str, Any]]


@pytest.fixture
def client(server: Any, adapters: Adapters) -> openai.OpenAI:
    """A client of a server that serves `reviews` from the first adapter; it never retries by itself."""
    one = adapters["one"]
    generation = server.state()["generation"] + 1
    server.write(generation, [one], reviews=one["name"])
    server.until(lambda state: state["ready"] and state["appliedGeneration"] == generation)
    return openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0)


def test_chat_names_the_version_that_answered(client: openai.OpenAI, adapters: Adapters) -> None:
    answer = client.chat.completions.create(model="reviews", messages=ASK, max_tokens=4, temperature=0)
    assert answer.model == adapters["one"]["name"]
    assert answer.choices[0].message.content


def test_tools_that_must_not_be_called_are_in_the_prompt_as_in_training(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "fox", "parameters": {"type": "object"}}}]
    ask: Any = {"model": "tiny", "messages": ASK, "max_tokens": 4, "temperature": 0}
    without = client.chat.completions.create(**ask)
    offered = client.chat.completions.create(**ask, tools=tools, tool_choice="none")
    seen = [answer.usage.prompt_tokens for answer in (without, offered) if answer.usage]
    assert seen[1] > seen[0]
    assert offered.choices[0].message.content


def test_every_event_of_a_stream_names_the_version(client: openai.OpenAI, adapters: Adapters) -> None:
    stream = client.chat.completions.create(model="reviews", messages=ASK, max_tokens=4, stream=True)
    assert {event.model for event in stream} == {adapters["one"]["name"]}


def test_completions_differ_between_base_and_alias(client: openai.OpenAI) -> None:
    texts = {
        model: client.completions.create(model=model, prompt="the quick", max_tokens=8, temperature=0)
        .choices[0]
        .text
        for model in ("tiny", "reviews")
    }
    assert texts["tiny"] != texts["reviews"]


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "reviews"]
    assert client.models.retrieve("reviews").created > 0


def test_a_wrong_key_is_an_authentication_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="GET /v1/models"):
        client.chat.completions.create(model="nobody", messages=ASK)


def test_the_engines_own_refusal_reaches_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="reviews", prompt="the quick", max_tokens=100_000)


def test_an_adapter_without_effect_is_found_on_the_real_engine(
    client: openai.OpenAI, server: Any, adapters: Adapters
) -> None:
    one, none = adapters["one"], adapters["none"]
    generation = server.state()["generation"] + 1
    server.write(generation, [one, none], reviews=one["name"])
    state = server.until(lambda s: any(v["phase"] == "Failed" for v in s["versions"]))
    assert next(v["reason"] for v in state["versions"] if v["name"] == none["name"]) == "SilentNoOp"
    assert state["ready"]


@dataclass
class Load:
    """A constant number of requests in flight, and what came of them."""

    url: str
    key: str
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Ask until stopped, half of the requests as streams."""
        async with openai.AsyncOpenAI(base_url=self.url, api_key=self.key, max_retries=0) as client:
            await asyncio.gather(*(self._ask(client, stream=i % 2 == 0) for i in range(IN_FLIGHT)))

    async def _ask(self, client: openai.AsyncOpenAI, *, stream: bool) -> None:
        while not self.stop.is_set():
            try:
                self.versions.append(await _one(client, stream=stream))
            except openai.OpenAIError as error:
                self.failures.append(repr(error))


async def _one(client: openai.AsyncOpenAI, *, stream: bool) -> str:
    if not stream:
        answer = await client.chat.completions.create(model="reviews", messages=ASK, max_tokens=8)
        return answer.model
    events = await client.chat.completions.create(model="reviews", messages=ASK, max_tokens=8, stream=True)
    models = {event.model async for event in events}
    assert len(models) == 1
    return models.pop()


async def _until(server: Any, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    return await asyncio.to_thread(server.until, condition)


async def test_a_version_rolls_over_and_back_under_load_without_a_failed_request(
    client: openai.OpenAI, server: Any, adapters: Adapters, record_property: Callable[[str, object], None]
) -> None:
    """The operator's three manifests per roll: both loaded, the alias moved, the old one dropped."""
    one, two = adapters["one"], adapters["two"]
    load = Load(server.url, server.key)
    running = asyncio.create_task(load.run())
    seconds = []
    for old, new in ((one, two), (two, one)):
        began, generation = time.monotonic(), server.state()["generation"]
        server.write(generation + 1, [old, new], reviews=old["name"])
        await _until(server, lambda s, new=new: _phase(s, new) == "Ready")
        server.write(generation + 2, [old, new], reviews=new["name"])
        await _until(server, lambda s, g=generation + 2: s["appliedGeneration"] == g)
        server.write(generation + 3, [new], reviews=new["name"])
        await _until(server, lambda s, old=old: _phase(s, old) == "")
        seconds.append(round(time.monotonic() - began, 2))
        answered = len(load.versions)
        await _until(server, lambda _, n=answered: len(load.versions) >= n + 2 * IN_FLIGHT)
        assert set(load.versions[-IN_FLIGHT:]) == {new["name"]}
    load.stop.set()
    await running
    record_property("requests", len(load.versions))
    record_property("roll_seconds", seconds)
    print(f"requests {len(load.versions)}, failures {len(load.failures)}, seconds per roll {seconds}")
    assert load.failures == []
    assert server.state()["versions"][0]["failures"] == 0


def _phase(state: dict[str, Any], entry: dict[str, Any]) -> str:
    return next((str(v["phase"]) for v in state["versions"] if v["name"] == entry["name"]), "")


async def test_the_gateway_adds_little_to_a_request(
    client: openai.OpenAI, server: Any, engine_socket: Any, adapters: Adapters
) -> None:
    """Measured on the cheapest request there is (one token), through the gateway and around it."""
    import httpx

    body = {"model": "reviews", "prompt": "the", "max_tokens": 1}
    headers = {"Authorization": f"Bearer {server.key}"}
    direct = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(engine_socket)), base_url="http://e/v1"
    )
    through = httpx.AsyncClient(base_url=server.url, headers=headers)
    async with direct, through:
        asked = ((through, body), (direct, body | {"model": adapters["one"]["name"]}))
        times: list[list[float]] = [[], []]
        for _ in range(50):
            for i, (session, content) in enumerate(asked):
                began = time.perf_counter()
                (await session.post("/completions", json=content)).raise_for_status()
                times[i].append(time.perf_counter() - began)
    overhead = statistics.median(times[0]) - statistics.median(times[1])
    print(
        f"median {statistics.median(times[0]) * 1e3:.1f} ms through the gateway, {overhead * 1e3:+.1f} ms of it ours"
    )
    assert overhead < 0.5  # a shared machine; what is printed is the measurement
