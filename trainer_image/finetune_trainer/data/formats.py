"""The shapes that a row can have, and the one shape that everything after the checks uses.

Five formats are read: `messages`, `pairs` (prompt and completion, as text or as messages), `sharegpt`
(`conversations` with `from` and `value` or with `role` and `content`), `alpaca` (instruction, input, output)
and `text`. A sixth, `preference` (chosen and rejected), is recognised so that it can be refused by name.
Rows are respelled before (spellings.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.spellings import (
    Message,
    arguments_of,
    function_of,
    given,
    parsed,
    tool_named,
    without_null_arguments,
)

ROLES = ("system", "user", "assistant", "tool")
MESSAGE_KEYS = (
    "role", "content", "name", "tool_calls", "tool_call_id", "weight", "train", "reasoning_content",
)  # fmt: skip
# What is a call, or a list of calls at once, and no text; it is the assistant's.
_CALLS = ("function_call", "tool_call")
# Who speaks in sharegpt.
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    **dict.fromkeys(_CALLS, "assistant"),
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "tool_response": "tool",
}
# The fields that tell a format, in the order in which they do.
_MARKS = {
    "messages": "messages",
    "prompt": "pairs",
    "completion": "pairs",
    "conversations": "sharegpt",
    "instruction": "alpaca",
}


@dataclass(frozen=True)
class Row:
    """A row in canonical form: its number, its id and its messages; or, of the text format, its text.

    `group` names what the row was made from (a document, a customer): its rows belong to one side of the
    split. `tools` are the functions that the chat template is told about; `tests` is code that an answer has
    to pass.
    """

    number: int
    id: str
    messages: tuple[Message, ...]
    text: str | None = None
    group: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tests: str | None = None

    def content(self) -> str:
        """The row as one canonical line of JSON, without its place in the file."""
        plain = self.text is None and not self.tools
        value: Any = self.messages if plain else [self.messages, self.text, self.tools]
        if self.tests is not None:
            value = [value, self.tests]
        return json.dumps(value, sort_keys=True, ensure_ascii=False)


def detect(row: Mapping[str, Any]) -> str:
    """The format of a row: messages, preference, pairs, sharegpt, alpaca, text or unknown."""
    if given(row, "chosen") and given(row, "rejected"):
        return "preference"
    for key, kind in _MARKS.items():
        if given(row, key):
            return kind
    if given(row, "input") and given(row, "output"):
        return "alpaca"
    return "text" if given(row, "text") else "unknown"


def turns(row: Mapping[str, Any]) -> list[Any]:
    """The messages of a row with `role` and `content`, whatever its format; wrong ones stay as they are.

    Empty when there are none: the row is text, has no known format, or what should be a list is none.
    """
    match detect(row):
        case "messages":
            messages = _listed(row["messages"])
        case "sharegpt":
            messages = _with_parallel_calls([_sharegpt_turn(item) for item in _listed(row["conversations"])])
        case "alpaca":
            messages = _alpaca_turns(row)
        case "pairs":
            messages = _pair_turns(row)
        case _:
            return []
    return _after_system(row, messages)


def trained(message: Message) -> bool:
    """Whether a message is trained: the assistant's are, unless `weight` is 0 or `train` is false."""
    return message["role"] == "assistant" and message.get("weight") != 0 and message.get("train") is not False


def canonical(number: int, row: dict[str, Any]) -> Row:
    """The canonical form of a respelled row that passed the rules about raw rows."""
    text = row["text"] if detect(row) == "text" else None
    tools = row.get("tools") or []
    messages = tuple(_canonical_turn(turn, tools) for turn in turns(row))
    groups = (row.get(key) for key in ("group", "source_id"))
    group = next((str(group) for group in groups if group not in (None, "")), None)
    tests = row.get("tests")
    given_tests = tests if isinstance(tests, str) and tests.strip() else None
    return Row(number, _id(number, row), messages, text, group, tuple(tools), given_tests)


def _id(number: int, row: Mapping[str, Any]) -> str:
    name = row.get("id")
    return str(name) if isinstance(name, str | int) and name != "" else str(number)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _after_system(row: Mapping[str, Any], messages: list[Any]) -> list[Any]:
    """The messages with the column `system` before them, unless they begin with the same."""
    system = {"role": "system", "content": row.get("system")}
    return [system, *messages] if row.get("system") and messages[:1] != [system] else messages


def _pair_turns(row: Mapping[str, Any]) -> list[Any]:
    prompt, completion = row.get("prompt"), row.get("completion")
    return [*map(_context, _side("user", prompt)), *_side("assistant", completion)]


def _side(role: str, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and "role" in value:
        return [value]
    return [] if value is None else [{"role": role, "content": value}]


def _context(turn: Any) -> Any:
    """An answer inside a prompt is what the model was told, not what it is to learn."""
    answer = isinstance(turn, dict) and turn.get("role") == "assistant"
    return {"train": False, **turn} if answer and not given(turn, "weight") else turn


def _alpaca_turns(row: Mapping[str, Any]) -> list[Any]:
    question = _alpaca_question(row.get("instruction"), row.get("input"))
    return [{"role": "user", "content": question}, *_side("assistant", row.get("output"))]


def _alpaca_question(instruction: Any, extra: Any) -> Any:
    """Both with a blank line between, or the one that is there."""
    if _is_blank(extra):
        return instruction
    if _is_blank(instruction):
        return extra
    both = [instruction, extra]
    return "\n\n".join(both) if all(isinstance(part, str) for part in both) else both


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _sharegpt_turn(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    turn = {key: value for key, value in item.items() if key not in ("from", "value", "role", "content")}
    speaker = item["from"] if given(item, "from") else item.get("role")
    if "from" in item or "role" in item:
        turn["role"] = SHAREGPT_ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker
    said = item["value"] if given(item, "value") else item.get("content")
    content = {"content": said} if {"value", "content"} & item.keys() else {}
    if speaker not in _CALLS:
        return {**turn, **content}
    calls = parsed(content.get("content"))
    listed = calls if isinstance(calls, list) else [calls]
    return {**turn, "tool_calls": [{"type": "function", "function": call} for call in listed]}


def _with_parallel_calls(turns: list[Any]) -> list[Any]:
    """The turns with calls that follow each other as calls of one message: the model makes them at once."""
    joined: list[Any] = []
    for turn in turns:
        if joined and _is_call(turn) and _is_call(joined[-1]) and _rest(turn) == _rest(joined[-1]):
            joined[-1] = {**turn, "tool_calls": [*joined[-1]["tool_calls"], *turn["tool_calls"]]}
        else:
            joined.append(turn)
    return joined


def _is_call(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("tool_calls"), list) and "content" not in turn


def _rest(turn: Message) -> Message:
    return {key: value for key, value in turn.items() if key != "tool_calls"}


def _canonical_turn(turn: Message, tools: list[Any]) -> Message:
    """Only what templates know, with text for content and objects for the arguments of calls."""
    kept = {key: turn[key] for key in MESSAGE_KEYS if given(turn, key)}
    kept.setdefault("content", "")
    if kept.get("tool_calls"):
        kept["tool_calls"] = [_canonical_call(call, tools) for call in kept["tool_calls"]]
    return kept


def _canonical_call(call: dict[str, Any], tools: list[Any]) -> dict[str, Any]:
    function = function_of(call)
    arguments = without_null_arguments(arguments_of(function), tool_named(tools, function["name"]))
    function = {**_without_nulls(function), "arguments": arguments}
    return (
        {"type": "function", **_without_nulls(call), "function": function}
        if given(call, "function")
        else function
    )


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}
