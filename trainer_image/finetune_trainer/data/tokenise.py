"""From messages to token ids and labels: only what the assistant says is trained, its end token included.

The conversation is rendered once by the base model's own chat template. An assistant turn is where the
rendered text goes on after what the model sees when it is asked to answer (`add_generation_prompt`), so
training and serving meet the same bytes. Tokens of a turn after its end-of-turn token (a newline, mostly)
are not trained: the model has stopped by then.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.data.formats import Message, Row
from finetune_trainer.errors import UserError

UNTRAINED = -100


@dataclass(frozen=True)
class Encoded:
    """One tokenised row and what the token rules need to know about it."""

    number: int
    input_ids: list[int]
    labels: list[int]
    stops: bool  # every assistant turn ends in a trained end token
    prefix_kept: bool  # the prompt alone has the same tokens as at the start of the whole

    @property
    def trained(self) -> int:
        """How many tokens have a label."""
        return sum(label != UNTRAINED for label in self.labels)


@dataclass(frozen=True)
class Unrendered:
    """A row that the chat template refuses, with the reason."""

    number: int
    problem: str


class ChatTokenizer:
    """The base model's tokenizer and chat template with the tokens that end an answer."""

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.stop_ids = stop_ids

    @property
    def has_template(self) -> bool:
        """Whether the base model brings a chat template."""
        return bool(self._tokenizer.chat_template)

    def render(self, messages: Sequence[Message], *, ask: bool) -> str:
        """The text of a conversation; with `ask` it ends where the assistant is to answer."""
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
        return str(text)

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and their places in the text; the template already wrote the special tokens."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that the model sees before it answers."""
        return self.encode(self.render(messages, ask=True))[0]


def load_tokenizer(base: Path) -> ChatTokenizer:
    """The tokenizer of a base folder; UserError when there is none that works. Runs no code of the folder."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        text = f"The base model's tokenizer cannot be loaded ({_first_line(error)}); add its tokenizer files."
        raise UserError(text) from error
    if not tokenizer.is_fast:
        raise UserError("The base model has no tokenizer.json; save its tokenizer in the fast format.")
    stops = {tokenizer.eos_token_id, *_generation_stops(base / "generation_config.json")} - {None}
    return ChatTokenizer(tokenizer, frozenset(stops))


def encode_row(tokenizer: ChatTokenizer, row: Row) -> Encoded | Unrendered:
    """Tokenise one row, or say why its template or its turns do not allow it."""
    try:
        text = tokenizer.render(row.messages, ask=False)
        spans = _assistant_spans(tokenizer, row.messages, text)
    except _TurnMovedError as error:
        return Unrendered(row.number, str(error))
    except Exception as error:  # a template may raise anything
        return Unrendered(row.number, _first_line(error))
    ids, offsets = tokenizer.encode(text)
    labels, stops = _labels(ids, offsets, spans, tokenizer.stop_ids)
    start, _ = spans[-1]
    prompt, _ = tokenizer.encode(text[:start])
    return Encoded(row.number, ids, labels, stops, prefix_kept=ids[: len(prompt)] == prompt)


def render_problem(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> str | None:
    """Why a prompt cannot be rendered, or None."""
    try:
        tokenizer.render(messages, ask=True)
    except Exception as error:  # a template may raise anything
        return _first_line(error)
    return None


class _TurnMovedError(Exception):
    pass


def _assistant_spans(
    tokenizer: ChatTokenizer, messages: Sequence[Message], text: str
) -> list[tuple[int, int]]:
    spans = []
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.render(messages[:position], ask=True)
        through = tokenizer.render(messages[: position + 1], ask=False)
        if not (text.startswith(through) and through.startswith(before)):
            raise _TurnMovedError(
                f"the template writes message {position + 1} differently inside the whole conversation; "
                "give each answer a row of its own"
            )
        spans.append((len(before), len(through)))
    return spans


def _labels(
    ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]], stop_ids: frozenset[int]
) -> tuple[list[int], bool]:
    labels, stops = [UNTRAINED] * len(ids), True
    for start, end in spans:
        inside = [
            i for i, (left, right) in enumerate(offsets) if left >= start and right <= end and right > left
        ]
        ends = [i for i in inside if ids[i] in stop_ids]
        stops = stops and bool(ends)
        last = ends[-1] if ends else (inside[-1] if inside else -1)
        for i in inside:
            if i <= last:
                labels[i] = ids[i]
    return labels, stops


def _generation_stops(path: Path) -> list[int]:
    if not path.is_file():
        return []
    try:
        given = json.loads(path.read_bytes()).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise UserError("The base model's generation_config.json is not a JSON object; repair it.") from error
    return given if isinstance(given, list) else [given]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
