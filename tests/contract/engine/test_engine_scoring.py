"""A run that scores on a shared server: what the scorer reads out of answers, through the gateway of real vLLM."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.chat.tokenizer import load_tokenizer
from finetune_trainer.contracts import ServerSpec
from finetune_trainer.scoring.effect import check_effect
from finetune_trainer.scoring.rows import Question
from finetune_trainer.scoring.server import ServerEngine
from tests.contract.engine.test_engine_rendering import PROMPTS, Prompt

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def version(
    server: Any, adapters: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The first adapter as the candidate of a run whose key is the team's."""
    monkeypatch.setenv("FT_CREDENTIALS_ROOT", str(tmp_path))
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "team").write_text(server.key)
    name = f"candidate.run--{adapters['one']['digest'][7:19]}"
    server.write(server.state()["generation"] + 1, [adapters["one"] | {"name": name}], candidates=(name,))
    yield name
    server.write(server.state()["generation"] + 1, [])
    server.until(lambda state: state["versions"] == [])


def engine(server: Any, adapters: dict[str, dict[str, Any]]) -> ServerEngine:
    spec = ServerSpec(
        endpoint=server.url,
        model="tiny",
        template="sha256:" + "0" * 64,
        candidate="candidate.run",
        source="pvc://adapters/x",
        key="team",
    )
    return ServerEngine(spec, lambda: str(adapters["one"]["digest"]))


async def test_a_candidate_is_scored_through_the_gateway(
    server: Any, adapters: dict[str, dict[str, Any]], version: str, base_model: Path
) -> None:
    tokenizer = load_tokenizer(base_model, {"enable_thinking": False})
    async with engine(server, adapters) as asked:
        await asked.wait_ready()
        base = await asked.base_name()
        assert await asked.load_adapter("tuned", Path()) == version
        for messages, tools in PROMPTS.values():
            prompt = Prompt(messages, tools, {"enable_thinking": False})
            seen = [await asked.prompt_ids(name, prompt) for name in (base, version)]
            assert seen == [tokenizer.prompt_ids(messages, tools)] * 2
            assert (await asked.chat(version, prompt, 1)).tokens == 1
        question = Question("r0", Prompt(PROMPTS["a question"][0]), "the")
        await check_effect(asked, base, version, [question])
        ids = await asked.tokens(base, "quick brown")
        assert ids == tokenizer.encode("quick brown")
        assert await asked.log_probability(version, [1, 5], ids[0]) < 0
