"""What is trained is, token by token, what the engine would see and write."""

import json
from pathlib import Path
from typing import Any

import pytest

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
    turns = _served(base, CONVERSATIONS[kind], ready.kwargs)
    assert [prompt for prompt, _ in answers] == [prompt for prompt, _ in turns]
    for (_, trained), (_, message) in zip(answers, turns, strict=True):
        _check_answer(base, trained, message)


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
    base: Path, row: dict[str, Any], options: dict[str, Any]
) -> list[tuple[list[int], dict[str, Any]]]:
    """The prompt of every answer as vLLM renders it (transformers' own call), with the answer."""
    from transformers import AutoTokenizer

    tokenizer, messages = AutoTokenizer.from_pretrained(base), row["messages"]
    prompts = []
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            text = tokenizer.apply_chat_template(
                messages[:place],
                tools=row.get("tools"),
                tokenize=False,
                add_generation_prompt=True,
                **options,
            )
            prompts.append((tokenizer.encode(text, add_special_tokens=False), message))
    return prompts


def _check_answer(base: Path, trained: list[int], message: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    stops = json.loads((base / "generation_config.json").read_text())["eos_token_id"]
    text = tokenizer.decode(trained)
    assert trained[-1] in (stops if isinstance(stops, list) else [stops]), text
    assert [word for word in words_of(message) if word not in text] == [], text
