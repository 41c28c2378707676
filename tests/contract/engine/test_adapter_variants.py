"""The checks before the engine are right: what they pass has an effect in vLLM, what they refuse it cannot serve."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.adapter_variants import GOOD, REFUSED, Variant, Workshop, trained_on, without

pytestmark = [pytest.mark.engine, pytest.mark.slow]

Reading = list[dict[str, float]]
Ask = Callable[[Variant], Awaitable[Reading | None]]
_PROMPT = {
    "prompt": "the quick brown fox",
    "max_tokens": 4,
    "temperature": 0,
    "logprobs": 10,
    "ignore_eos": True,
}
SERVED = (
    "all linear layers",
    "one module of one layer",
    "other ranks and alphas by module",
    "rank-stabilised scaling",
    "the output head too",
    "the token embedding too, with its copy",
    "float16 weights",
    "names without PEFT's prefix",
)
NOT_LOADED = (
    "no tensors",
    "a matrix B left out",
    "empty matrices, as ZeRO-3 saves them",
    "a whole output head",
    "names that keep the adapter's own",
    "a base with a wider feed-forward part",
    "a base with more tokens",
    "a module that the base does not have",
)
# Loaded without a word, and served like this instead.
DROPPED = {
    "half of the names under another prefix": Variant("the other half alone", without("layers.1.")),
    "a base with more layers": Variant(
        "without those layers", without("layers.2.", "layers.3.", of=trained_on(num_hidden_layers=4))
    ),
    "a changed embedding": next(v for v in GOOD if v.sentence == "the token embedding too, with its copy"),
}
WITHOUT_EFFECT = ("all names under another prefix", "every B zero, as before training", "an alpha of zero")


def named(sentence: str) -> Variant:
    return next(variant for variant in (*GOOD, *REFUSED) if variant.sentence == sentence)


@pytest.fixture(scope="module")
def workshop(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(base_model, tmp_path_factory.mktemp("variants"))


@pytest.fixture
async def engine(engine_socket: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(engine_socket))
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:
        yield session


async def read(engine: aiohttp.ClientSession, model: str) -> Reading:
    async with engine.post("/v1/completions", json={"model": model, **_PROMPT}) as response:
        return json.loads(await response.text())["choices"][0]["logprobs"]["top_logprobs"]


@pytest.fixture
def ask(engine: aiohttp.ClientSession, workshop: Workshop, tmp_path: Path) -> Ask:
    """Load an adapter, read its answer and remove it; None when the engine refuses it."""

    async def made(variant: Variant) -> Reading | None:
        folder = tmp_path / variant.sentence.replace(" ", "-")
        workshop.place(variant, folder)
        body = {"lora_name": folder.name, "lora_path": str(folder)}
        async with engine.post("/v1/load_lora_adapter", json=body) as response:
            if response.status != 200:
                return None
        reading = await read(engine, folder.name)
        async with engine.post("/internal/remove_lora", json={"lora_name": folder.name}) as response:
            assert response.status == 200
        return reading

    return made


@pytest.mark.parametrize("sentence", SERVED)
async def test_what_passes_changes_the_answers(
    engine: aiohttp.ClientSession, ask: Ask, sentence: str
) -> None:
    reading = await ask(named(sentence))
    assert reading is not None
    assert reading != await read(engine, "tiny")


@pytest.mark.parametrize("sentence", NOT_LOADED)
async def test_what_is_refused_the_engine_cannot_load(ask: Ask, sentence: str) -> None:
    assert await ask(named(sentence)) is None


@pytest.mark.parametrize("sentence", DROPPED)
async def test_what_is_refused_the_engine_would_drop_in_part(
    engine: aiohttp.ClientSession, ask: Ask, sentence: str
) -> None:
    whole, part = await ask(named(sentence)), await ask(DROPPED[sentence])
    assert whole == part != await read(engine, "tiny")


@pytest.mark.parametrize("sentence", WITHOUT_EFFECT)
async def test_what_is_refused_would_answer_like_the_base(
    engine: aiohttp.ClientSession, ask: Ask, sentence: str
) -> None:
    assert await ask(named(sentence)) == await read(engine, "tiny")
