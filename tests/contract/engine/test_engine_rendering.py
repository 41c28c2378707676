"""The real engine makes the same tokens of a prompt as prepare, and takes the values for its chat template."""

from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
import trl
from transformers.utils.chat_template_utils import _compile_jinja_template

from finetune_trainer.chat.options import decide
from finetune_trainer.chat.parts import takes_parts
from finetune_trainer.chat.tokenizer import load_tokenizer
from finetune_trainer.errors import TemplateDrift
from finetune_trainer.scoring.client import Engine, Prompt, on_socket
from finetune_trainer.scoring.drift import check_rendering
from finetune_trainer.scoring.rows import Question
from tests.unit.trainer_chat.test_parts import TEMPLATES

pytestmark = [pytest.mark.engine, pytest.mark.slow]

USER = {"role": "user", "content": "the patient took medicine"}
CALL = {"type": "function", "function": {"name": "fox", "arguments": {"quick": "brown"}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "a lazy dog"}
RETURNED = {"role": "tool", "tool_call_id": "call_0", "content": "jumps"}
TOOLS = ({"type": "function", "function": {"name": "fox", "parameters": {"type": "object"}}},)
PROMPTS = {
    "a question": ((USER,), ()),
    "a system message": (({"role": "system", "content": "answer well"}, USER), ()),
    "functions without a description": ((USER,), TOOLS),
    "a call with reasoning, and its answer": ((USER, CALLED, RETURNED), TOOLS),
}


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
async def test_the_engine_sees_the_tokens_that_prepare_saw(
    engine_socket: Path, base_model: Path, name: str, thinking: bool
) -> None:
    messages, tools = PROMPTS[name]
    tokenizer = load_tokenizer(base_model, {"enable_thinking": thinking})
    prompt = Prompt(messages, tools, {"enable_thinking": thinking})
    async with Engine(on_socket(engine_socket)) as engine:
        assert await engine.prompt_ids("tiny", prompt) == tokenizer.prompt_ids(messages, tools)
        assert (await engine.chat("tiny", prompt, 1)).tokens == 1


async def test_a_prompt_that_is_rendered_otherwise_is_named_with_both_texts(
    engine_socket: Path, base_model: Path
) -> None:
    seen = load_tokenizer(base_model, {"enable_thinking": False}).prompt_ids([USER])
    question = Question("r1", Prompt((USER,), (), {"enable_thinking": True}), "", tuple(seen))
    async with Engine(on_socket(engine_socket)) as engine:
        with pytest.raises(TemplateDrift, match="row r1 otherwise than prepare"):
            await check_rendering(engine, "tiny", [question])


def test_content_has_the_form_that_the_engine_chooses_for_every_template() -> None:
    from vllm.renderers.hf import _detect_content_format

    official = [path.read_text() for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")]
    texts = [*official, *(text for text, _ in TEMPLATES.values())]
    trees = [_compile_jinja_template(text).environment.parse(text) for text in texts]
    chosen = [_detect_content_format(text, default="string") == "openai" for text in texts]
    assert [takes_parts(tree) for tree in trees] == chosen
    assert {True, False} == set(chosen)


def test_the_templates_switch_is_found(base_model: Path) -> None:
    options = decide(load_tokenizer(base_model).template, [USER], rows=1, reasoned=0, today=date(2026, 1, 1))
    assert options.kwargs == {"enable_thinking": False}


def test_the_gateway_renders_a_versions_prompts_as_in_training(server: Any, adapters: dict[str, Any]) -> None:
    entry = adapters["quiet"]
    generation = server.state()["generation"] + 1
    server.write(generation, [entry], quiet=entry["name"])
    server.until(lambda state: state["ready"] and state["appliedGeneration"] == generation)
    asked = {"messages": [USER], "max_tokens": 1}
    explicit = {"chat_template_kwargs": {"enable_thinking": False}}
    counts = [
        httpx.post(
            f"{server.url}/chat/completions",
            json={"model": model, **asked, **more},
            headers={"Authorization": f"Bearer {server.key}"},
            timeout=60,
        ).json()["usage"]["prompt_tokens"]
        for model, more in (("quiet", {}), ("tiny", explicit), ("tiny", {}))
    ]
    assert counts[0] == counts[1] == counts[2] + 1
