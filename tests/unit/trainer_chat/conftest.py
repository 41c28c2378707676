"""Official chat templates (TRL's copies) on tiny byte-level tokenizers that know their special tokens."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trl

from finetune_trainer.chat.tokenizer import ChatTokenizer

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
_MARKS = re.compile(
    r"<[|｜][^ <>|]+[|｜]>|<(?:start|end)_of_turn>|<turn\||<\|turn>|</?think>|\[gMASK\]|<sop>"
)
END, TEXT_END = "<|im_end|>", "<|endoftext|>"


@dataclass(frozen=True)
class Family:
    """A template, the tokens that its generation_config.json lists as ends, and how it writes an answer.

    `before` and `after` surround the text of an answer without reasoning, as the model has to write it.
    """

    template: str
    ends: tuple[str, ...] = (END,)
    before: str = ""
    after: str = END


FAMILIES = {
    family.template: family
    for family in (
        Family("qwen2_5"),
        Family("qwen3"),
        Family("qwen3_5_think"),
        Family("qwen3_6"),
        Family("qwen3_8"),
        Family("qwen3_instruct_2507"),
        Family("lfm2"),
        Family("lfm2_2_5_v2"),
        Family("nemotron_3_nano"),
        Family("nemotron_3_super"),
        Family("deepseek_r1_distill", ("<｜end▁of▁sentence｜>",), "\n</think>\n\n", "<｜end▁of▁sentence｜>"),
        Family("deepseekv3", ("<｜end▁of▁sentence｜>",), "\n</think>\n\n", "<｜end▁of▁sentence｜>"),
        Family("phi3", (TEXT_END, "<|end|>"), after="<|end|>"),
        Family("phi3_5", (TEXT_END, "<|end|>"), after="<|end|>"),
        Family("glm4moe", (TEXT_END, "<|user|>", "<|observation|>"), "\n", "<|user|>"),
        Family("llama3", ("<|eot_id|>",), after="<|eot_id|>"),
        Family("llama3_1", ("<|eot_id|>", "<|eom_id|>"), after="<|eot_id|>"),
        Family("llama3_2", ("<|eot_id|>", "<|eom_id|>"), after="<|eot_id|>"),
        Family("gemma", ("<end_of_turn>",), after="<end_of_turn>"),
        Family("gemma3", ("<end_of_turn>",), after="<end_of_turn>"),
        Family("gemma4_v5", ("<turn|>", "<|tool_response>"), after="<turn|>"),
        Family("gptoss", ("<|return|>", "<|call|>"), "<|channel|>final<|message|>", "<|return|>"),
        Family("cohere2", ("<|END_OF_TURN_TOKEN|>",), after="<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"),
    )
}


@cache
def family_tokenizer(name: str) -> ChatTokenizer:
    """The tokenizer of a family, without options for its template."""
    family = FAMILIES[name]
    text = (TEMPLATES / f"{name}.jinja").read_text()
    return tiny_tokenizer(text, family.ends)


def tiny_tokenizer(template: str, ends: tuple[str, ...]) -> ChatTokenizer:
    """Bytes, and a token for each mark in the template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    marks = sorted({*_MARKS.findall(template), *ends, "<s>"} - {"<think>", "</think>"})
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        ["the user asks"],
        trainers.BpeTrainer(vocab_size=400, special_tokens=marks, initial_alphabet=alphabet),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=ends[0], bos_token="<s>")
    fast.chat_template = template
    return ChatTokenizer(fast, frozenset(fast.convert_tokens_to_ids(list(ends))))


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str], ChatTokenizer]:
    """A function from the name of a family to its tokenizer."""
    return family_tokenizer


# What vLLM 0.32 detects; tests/contract/engine/test_engine_rendering.py compares it for every template.
TAKES_PARTS = ("qwen3_5_think", "qwen3_6", "qwen3_8", "lfm2_2_5_v2", "glm4moe", "gemma3", "gemma4_v5")


def engine_form(message: dict[str, Any], family: str) -> dict[str, Any]:
    """A message as vLLM 0.32 hands it to a template, written out by hand."""
    kept = {
        key: message[key]
        for key in ("role", "content", "tool_call_id", "name", "tool_calls")
        if key in message
    }
    if reasoning := message.get("reasoning_content"):
        kept |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if family in TAKES_PARTS and message["role"] != "tool":
        kept["content"] = [{"type": "text", "text": message["content"]}]
    return kept
