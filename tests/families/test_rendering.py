"""What is trained is, token by token, what the engine would see and write."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from finetune_trainer.chat.parts import in_parts
from finetune_trainer.chat.tokenizer import load_tokenizer
from tests.families.conversations import CONVERSATIONS, words_of
from tests.families.families import Family
from tests.families.stages import Record, Refused, Runs, works

pytestmark = pytest.mark.families

IGNORED = -100


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_what_is_trained_follows_what_the_engine_sees(
    family: Family, base: Path, runs: Runs, kind: str, record_property: Record
) -> None:
    if family.template is None:
        pytest.skip("no package ships the official template")
    ready = runs.prepared(family, kind)
    if not works(ready, family.unrendered.get(kind), record_property) or isinstance(ready, Refused):
        return
    answers = [answer for line in ready.rows for answer in _answers(line)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    turns = _served(tokenizer, CONVERSATIONS[kind], ready.kwargs, load_tokenizer(base).template.takes_parts)
    for (prompt, trained), (seen, message) in zip(answers, turns, strict=True):
        assert seen in (prompt, None)
        _check_answer(base, tokenizer, trained, message)
    assert turns[0][0] is not None


def _answers(line: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """The trained answers of a row, each with all the tokens before it."""
    ids, labels = line["input_ids"], line["labels"]
    starts = [
        place
        for place, label in enumerate(labels)
        if label != IGNORED and (place == 0 or labels[place - 1] == IGNORED)
    ]
    return [(ids[:start], _until_ignored(labels[start:])) for start in starts]


def _until_ignored(labels: list[int]) -> list[int]:
    end = labels.index(IGNORED) if IGNORED in labels else len(labels)
    return labels[:end]


def _served(
    tokenizer: Any, row: dict[str, Any], options: dict[str, Any], parts: bool
) -> list[tuple[list[int] | None, dict[str, Any]]]:
    """The prompt of every answer as vLLM renders it (transformers' own call), with the answer.

    None where the template cannot join a call's arguments, which vLLM gives as an object: vLLM refuses those.
    """
    messages = row["messages"]
    given = [in_parts(message) for message in messages] if parts else messages
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return [
        (_prompt(tokenizer, given[:place], row.get("tools"), options), messages[place]) for place in places
    ]


def _prompt(tokenizer: Any, messages: Any, tools: Any, options: dict[str, Any]) -> list[int] | None:
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True, **options
        )
    except TypeError:
        return None
    return list(tokenizer.encode(text, add_special_tokens=False))


def _check_answer(base: Path, tokenizer: Any, trained: list[int], message: dict[str, Any]) -> None:
    stops = json.loads((base / "generation_config.json").read_text())["eos_token_id"]
    text = tokenizer.decode(trained)
    assert trained[-1] in (stops if isinstance(stops, list) else [stops]), text
    assert [word for word in words_of(message) if word not in text] == [], text
