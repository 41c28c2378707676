"""The stand-in engine of the unit tests and real vLLM, asked the same questions."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest

from finetune_serving.agent.effect import differs, is_same
from finetune_serving.agent.engine_client import EngineClient, Identity, refusal
from tests.engine_stand_in import StandInEngine

REAL = [pytest.mark.engine, pytest.mark.slow]
PROMPT = "the quick brown fox jumps over a lazy dog"


class Engine(Protocol):
    """An engine whose base is called tiny: 256 tokens, two adapters at a time, ranks up to 16."""

    session: aiohttp.ClientSession

    def adapter(self, name: str, rank: int = 8) -> str:
        """Folder of an adapter."""

    def long_generation(self) -> dict[str, Any]:
        """What a completion asks for to take a while."""


class Real:
    def __init__(self, session: aiohttp.ClientSession, folder: Path, make: Callable[..., str]) -> None:
        self.session, self._folder, self._make = session, folder, make

    def adapter(self, name: str, rank: int = 8) -> str:
        self._make(self._folder / name, seed=len(name), rank=rank)
        return str(self._folder / name)

    def long_generation(self) -> dict[str, Any]:
        return {"max_tokens": 240, "ignore_eos": True}


class StandIn:
    def __init__(self, session: aiohttp.ClientSession, folder: Path, engine: StandInEngine) -> None:
        self.session, self._folder, self._engine = session, folder, engine

    def adapter(self, name: str, rank: int = 8) -> str:
        (self._folder / name).mkdir()
        (self._folder / name / "adapter_config.json").write_text("{}")
        if rank > 16:
            self._engine.refuse_loads[name] = (500, f"LoRA rank {rank} is greater than max_lora_rank 16.")
        return str(self._folder / name)

    def long_generation(self) -> dict[str, Any]:
        self._engine.hold = hold = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, hold.set)
        return {"max_tokens": 240}


@pytest.fixture(params=["stand-in", pytest.param("vLLM", marks=REAL)])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    real = request.param == "vLLM"
    stand_in = StandInEngine(tmp_path / "e.sock", base="tiny", max_loras=2, max_model_len=256)
    await stand_in.start()
    connector = aiohttp.UnixConnector(
        str(request.getfixturevalue("engine_socket") if real else stand_in.path)
    )
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:
        make = request.getfixturevalue("make_adapter") if real else None
        engine = Real(session, tmp_path, make) if make else StandIn(session, tmp_path, stand_in)
        yield engine
        for name in (await get(engine, "/internal/loras"))["loras"]:
            await post(engine, "/internal/remove_lora", {"lora_name": name})
    await stand_in.stop()


async def get(engine: Engine, path: str) -> dict[str, Any]:
    async with engine.session.get(path) as response:
        return dict(await response.json())


async def post(engine: Engine, path: str, body: dict[str, Any]) -> tuple[int, str]:
    async with engine.session.post(path, json=body) as response:
        return response.status, await response.text()


async def load(engine: Engine, name: str, path: str) -> tuple[int, str]:
    return await post(engine, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})


async def complete(engine: Engine, model: str, **more: Any) -> tuple[int, str]:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 4, "temperature": 0, **more}
    return await post(engine, "/v1/completions", body)


def message(text: str) -> str:
    return str(json.loads(text)["error"]["message"])


async def test_an_adapter_comes_answers_and_goes(engine: Engine) -> None:
    path = engine.adapter("a--1")
    status, text = await load(engine, "a--1", path)
    assert status == 200, text
    assert text.startswith("Success")
    held = await get(engine, "/internal/loras")
    assert held["loras"]["a--1"]["path"] == path
    assert held["loras"]["a--1"]["id"] in held["resident"]
    status, text = await complete(engine, "a--1", ignore_eos=True)
    assert status == 200, text
    assert {"text", "finish_reason"} <= json.loads(text)["choices"][0].keys()
    removed = await post(engine, "/internal/remove_lora", {"lora_name": "a--1"})
    assert (removed[0], json.loads(removed[1])) == (200, {"removed": True, "resident": False})
    status, text = await complete(engine, "a--1")
    assert (status, "does not exist" in message(text)) == (404, True)
    assert (
        json.loads((await post(engine, "/internal/remove_lora", {"lora_name": "a--1"}))[1])["removed"]
        is False
    )


async def test_a_name_is_loaded_once(engine: Engine) -> None:
    path = engine.adapter("a--1")
    assert (await load(engine, "a--1", path))[0] == 200
    status, text = await load(engine, "a--1", path)
    assert (status, "already been loaded" in message(text)) == (400, True)


async def test_a_folder_without_an_adapter_is_not_found(engine: Engine, tmp_path: Path) -> None:
    status, text = await load(engine, "a--1", str(tmp_path / "nowhere"))
    assert (status, "No adapter found" in message(text)) == (404, True)


async def test_a_refusal_is_a_500_with_its_cause_in_the_text(engine: Engine) -> None:
    status, text = await load(engine, "large--1", engine.adapter("large--1", rank=32))
    assert status == 500
    assert refusal(status, text).reason == "RankTooLarge"
    assert "large--1" not in (await get(engine, "/internal/loras"))["loras"]


async def test_the_models_say_their_length_and_where_adapters_are(engine: Engine) -> None:
    path = engine.adapter("a--1")
    await load(engine, "a--1", path)
    cards = {card["id"]: card for card in (await get(engine, "/v1/models"))["data"]}
    assert cards["tiny"]["max_model_len"] == 256
    assert (cards["a--1"]["root"], cards["a--1"]["parent"]) == (path, "tiny")
    assert await EngineClient(engine.session).longest() == 256


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        pytest.param({"logprobs": 21}, "logprobs", id="more log-probabilities than allowed"),
        pytest.param({"prompt": " ".join([PROMPT] * 40)}, "maximum context length", id="too long a prompt"),
    ],
)
async def test_what_is_not_taken(engine: Engine, asked: dict[str, Any], told: str) -> None:
    status, text = await complete(engine, "tiny", **asked)
    assert (status, told in message(text)) == (400, True), text


@pytest.mark.parametrize("repeats", [1, 4, 16])
async def test_the_probe_reads_base_and_adapter(engine: Engine, repeats: int) -> None:
    await load(engine, "a--1", engine.adapter("a--1"))
    client = EngineClient(engine.session)
    base, again, tuned = [await client.continuation(m, 256, repeats) for m in ("tiny", "tiny", "a--1")]
    assert base is not None
    assert again is not None
    assert tuned is not None
    assert differs(base, again, tuned)
    assert is_same(base, again)


async def test_an_adapter_waits_while_as_many_as_may_generate_do(engine: Engine) -> None:
    for name in ("a--1", "bb--1", "ccc--1"):
        assert (await load(engine, name, engine.adapter(name)))[0] == 200
    more = engine.long_generation()
    running = [asyncio.create_task(complete(engine, name, **more)) for name in ("a--1", "bb--1")]
    await asyncio.sleep(0.1)  # until both are being generated
    last = asyncio.create_task(complete(engine, "ccc--1", max_tokens=1))
    await last
    assert any(task.done() for task in running)
    assert [status for status, _ in await asyncio.gather(*running, last)] == [200, 200, 200]


async def test_a_process_has_an_id_and_is_healthy(engine: Engine) -> None:
    assert await EngineClient(engine.session).identity() == Identity(
        (await get(engine, "/internal/engine"))["engineId"], 3
    )
