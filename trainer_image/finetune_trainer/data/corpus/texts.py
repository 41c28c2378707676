"""What a row asks and what it answers, as the plain text that rows are compared by."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow
from finetune_trainer.data.spellings import Message
from finetune_trainer.grading.values import UnreadableJson, normalise, parse_json

PROSE, OBJECT, ARRAY = range(3)
_ENDS = " .,;:!?\"'"


class Texts(Protocol):
    """Random access to canonical rows by their place in the data set (from 0)."""

    def __call__(self, index: int, /) -> Row:
        """The row at a place."""


@dataclass(frozen=True)
class Parts:
    """A row taken apart. Texts are normalised (Unicode, case, white space); hashes are of normalised text.

    The input is everything but system messages before the last assistant turn; `prompts` are the hashes of
    what stands before each assistant turn, system messages included. A row of the text format has only an
    input.
    """

    row: int
    system: int
    prompts: tuple[int, ...]
    input: str
    answer: str


def take_apart(row: Row) -> Parts:
    """Take a row apart."""
    if row.text is not None:
        text = normalise(row.text)
        return Parts(hash64(text), 0, (), text, "")
    contents = [normalise(content(turn)) for turn in row.messages]
    roles = [str(turn["role"]) for turn in row.messages]
    last = max((i for i, role in enumerate(roles) if role == "assistant"), default=len(roles))
    asked = [text for role, text in zip(roles[:last], contents, strict=False) if role != "system"]
    system = [text for role, text in zip(roles, contents, strict=True) if role == "system"]
    *prompts, whole = _prefixes(roles, contents, row.tools)
    answer = contents[last] if last < len(roles) else ""
    return Parts(whole, hash64("\n".join(system)), tuple(prompts), " ".join(asked), answer)


def content(turn: Message) -> str:
    """The text of a message; that of its tool calls when it only calls tools."""
    given = turn.get("content") or turn.get("tool_calls") or ""
    return given if isinstance(given, str) else json.dumps(given, sort_keys=True, ensure_ascii=False)


def input_text(row: Row) -> str:
    """The normalised input of a row."""
    return take_apart(row).input


def row_text(row: Row) -> str:
    """The normalised input and answer of a row."""
    parts = take_apart(row)
    return f"{parts.input} {parts.answer}"


def last_answer(row: Row) -> str:
    """The text of the last assistant turn as it is written, "" without one."""
    return next((content(turn) for turn in reversed(row.messages) if turn["role"] == "assistant"), "")


def held_out(row: HoldoutRow) -> Row:
    """A hold-out row as a training row would show it, so that both are measured alike."""
    closing: Message = {"role": "assistant", "content": row.reference}
    return Row(row.number, row.id, (*row.messages, closing), group=row.group)


def json_answer(text: str) -> Any:
    """The object or array that an answer consists of, None for prose (a bare number or word is prose)."""
    start = text.lstrip()[:1]
    if start not in ("{", "[", "`"):
        return None
    try:
        value = parse_json(text)
    except UnreadableJson:
        return None
    return value if isinstance(value, dict | list) else None


def answer_key(text: str) -> tuple[int, int, int]:
    """Kind of an answer, hash of its keys (of an object) and hash of what it says.

    The last is equal for JSON of other layout and for prose that differs in enclosing punctuation.
    """
    value = json_answer(text)
    if value is None:
        return PROSE, 0, hash64(normalise(text).strip(_ENDS))
    same = hash64(normalise(json.dumps(value, sort_keys=True, ensure_ascii=False)))
    if isinstance(value, dict):
        return OBJECT, hash64("\n".join(sorted(value))), same
    return ARRAY, 0, same


def hash64(text: str) -> int:
    """64 bits that do not depend on the process (Python's own hash does)."""
    return _number(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _prefixes(roles: Sequence[str], contents: Sequence[str], tools: Sequence[Any]) -> Iterator[int]:
    """The hash of what precedes each assistant turn, then that of the whole."""
    digest = blake2b(json.dumps(tools, sort_keys=True).encode() if tools else b"", digest_size=8)
    for role, text in zip(roles, contents, strict=True):
        if role == "assistant":
            yield _number(digest.digest())
        digest.update(f"{role}\x00{text}\x01".encode("utf-8", "surrogatepass"))
    yield _number(digest.digest())


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")
