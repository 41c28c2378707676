"""What we rely on in vLLM itself: adapters load by name, answer, and are really gone once removed."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
async def engine(engine_socket: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(engine_socket))
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:
        yield session


async def post(engine: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[int, str]:
    async with engine.post(path, json=body) as response:
        return response.status, await response.text()


async def loras(engine: aiohttp.ClientSession) -> dict[str, Any]:
    async with engine.get("/internal/loras") as response:
        return await response.json()


async def test_removing_an_adapter_frees_its_weights(
    engine: aiohttp.ClientSession, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    make_adapter(tmp_path / "a", seed=1)
    status, text = await post(
        engine, "/v1/load_lora_adapter", {"lora_name": "a--1", "lora_path": str(tmp_path / "a")}
    )
    assert status == 200, text
    held = await loras(engine)
    assert held["loras"]["a--1"]["path"] == str(tmp_path / "a")
    assert held["loras"]["a--1"]["id"] in held["resident"]

    body = {"model": "a--1", "prompt": "the quick brown", "max_tokens": 2, "temperature": 0}
    status, text = await post(engine, "/v1/completions", body)
    assert status == 200, text
    assert '"model":"a--1"' in text

    assert (await post(engine, "/internal/remove_lora", {"lora_name": "a--1"}))[0] == 200
    after = await loras(engine)
    assert "a--1" not in after["loras"]
    assert held["loras"]["a--1"]["id"] not in after["resident"]
    assert (await post(engine, "/v1/completions", body))[0] == 404


async def test_vllm_alone_keeps_the_weights_of_an_unloaded_adapter(
    engine: aiohttp.ClientSession, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    """The reason for our route; when this fails, vLLM has learned to free them and the route can go."""
    make_adapter(tmp_path / "b", seed=2)
    await post(engine, "/v1/load_lora_adapter", {"lora_name": "b--1", "lora_path": str(tmp_path / "b")})
    lora_id = (await loras(engine))["loras"]["b--1"]["id"]
    assert (await post(engine, "/v1/unload_lora_adapter", {"lora_name": "b--1"}))[0] == 200
    assert lora_id in (await loras(engine))["resident"]


async def test_removing_an_unknown_adapter_is_harmless(engine: aiohttp.ClientSession) -> None:
    status, text = await post(engine, "/internal/remove_lora", {"lora_name": "never-there"})
    assert (status, text) == (200, '{"removed":false,"resident":false}')


async def test_a_base_request_beside_an_adapter_is_answered_by_the_base(
    engine: aiohttp.ClientSession, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    """Fails on the CPU without finetune_serving.cpu_kernels: the last slot's adapter would answer."""
    for i, name in enumerate(("c--1", "d--1")):
        make_adapter(tmp_path / name, seed=10 + i)
        await post(engine, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(tmp_path / name)})
    body = {"prompt": "the quick brown fox", "max_tokens": 8, "temperature": 0}

    async def texts(*models: str) -> list[str]:
        answers = await asyncio.gather(
            *(post(engine, "/v1/completions", body | {"model": m}) for m in models)
        )
        return [json.loads(text)["choices"][0]["text"] for _, text in answers]

    alone = {model: (await texts(model))[0] for model in ("tiny", "c--1", "d--1")}
    assert len(set(alone.values())) == 3
    batch = ["c--1", "tiny", "d--1", "tiny", "c--1", "tiny"]
    for _ in range(3):
        assert await texts(*batch) == [alone[model] for model in batch]
    for name in ("c--1", "d--1"):
        await post(engine, "/internal/remove_lora", {"lora_name": name})


async def test_a_refused_adapter_leaves_nothing_in_the_engine(
    engine: aiohttp.ClientSession, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    """Nobody knows it by name, but vLLM keeps what failed after it was read."""
    import torch
    from safetensors.torch import load_file, save_file

    make_adapter(tmp_path / "odd", seed=21)
    weights = tmp_path / "odd" / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({n: torch.cat([t, t]) if "lora_B" in n else t for n, t in tensors.items()}, weights)
    before = await loras(engine)
    body = {"lora_name": "odd--1", "lora_path": str(tmp_path / "odd")}
    status, text = await post(engine, "/v1/load_lora_adapter", body)
    assert status == 500, text
    print("resident after the refusal", (await loras(engine))["resident"], "before", before["resident"])
    await post(engine, "/internal/remove_lora", {"lora_name": "odd--1"})
    assert (await loras(engine))["resident"] == before["resident"]
