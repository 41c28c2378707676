"""The shapes that a row can have, and the one shape that everything after the checks uses.

Five formats are read: `messages`, `pairs` (prompt and completion, as text or as messages), `sharegpt`
(`conversations` with `from` and `value`), `alpaca` (instruction, input, output) and `text`. A sixth,
`preference` (chosen and rejected), is recognised so that it can be refused by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
MESSAGE_KEYS = (
    "role", "content", "name", "tool_calls", "tool_call_id", "weight", "train", "reasoning_content",
)  # fmt: skip
# Who speaks in sharegpt; `function_call` is the assistant's too, but what it holds is a call and no text.
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
_MARKS = {
    "messages": ("messages",),
    "pairs": ("prompt", "completion"),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction",),
    "text": ("text",),
}
Message = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A row in canonical form: its number, its id and its messages; or, of the text format, its text.

    `group` names what the row was made from (a document, a customer): its rows belong to one side of the
    split. `tools` are the functions that the chat template is told about.
    """

    number: int
    id: str
    messages: tuple[Message, ...]
    text: str | None = None
    group: str | None = None
    tools: tuple[dict[str, Any], ...] = ()

    def content(self) -> str:
        """The row as one canonical line of JSON, without its place in the file."""
        plain = self.text is None and not self.tools
        value = self.messages if plain else [self.messages, self.text, self.tools]
        return json.dumps(value, sort_keys=True, ensure_ascii=False)


def given(row: Mapping[str, Any], key: str) -> bool:
    """Whether a key has a value: tables hold null where JSON lines leave the key out."""
    return row.get(key) is not None


def detect(row: Mapping[str, Any]) -> str:
    """The format of a row: messages, preference, pairs, sharegpt, alpaca, text or unknown."""
    if given(row, "chosen") and given(row, "rejected"):
        return "preference"
    return next((kind for kind, marks in _MARKS.items() if any(given(row, key) for key in marks)), "unknown")


def turns(row: Mapping[str, Any]) -> list[Any]:
    """The messages of a row with `role` and `content`, whatever its format; wrong ones stay as they are.

    Empty when there are none: the row is text, has no known format, or what should be a list is none.
    """
    kind = detect(row)
    if kind == "messages":
        return _listed(row["messages"])
    if kind == "sharegpt":
        return _after_system(row, [_sharegpt_turn(item) for item in _listed(row["conversations"])])
    if kind == "alpaca":
        return _after_system(row, _alpaca_turns(row))
    return _after_system(row, _pair_turns(row)) if kind == "pairs" else []


def trained(message: Message) -> bool:
    """Whether a message is trained: the assistant's are, unless `weight` is 0 or `train` is false."""
    return message["role"] == "assistant" and message.get("weight") != 0 and message.get("train") is not False


def parsed(value: Any) -> Any:
    """A value that may be given as JSON text; text that is no JSON stays text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def canonical(number: int, row: dict[str, Any]) -> Row:
    """The canonical form of a row that passed the rules about raw rows."""
    text = row["text"] if detect(row) == "text" else None
    messages = tuple(_canonical_turn(turn) for turn in turns(row))
    groups = (row.get(key) for key in ("group", "source_id"))
    group = next((str(group) for group in groups if group not in (None, "")), None)
    return Row(number, _id(number, row), messages, text, group, tuple(parsed(row.get("tools")) or ()))


def _id(number: int, row: Mapping[str, Any]) -> str:
    name = row.get("id")
    return str(name) if isinstance(name, str | int) and name != "" else str(number)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _after_system(row: Mapping[str, Any], messages: list[Any]) -> list[Any]:
    """The column `system` of the formats that have no system message of their own."""
    return [{"role": "system", "content": row["system"]}, *messages] if row.get("system") else messages


def _pair_turns(row: Mapping[str, Any]) -> list[Any]:
    prompt, completion = row.get("prompt"), row.get("completion")
    return [*map(_context, _side("user", prompt)), *_side("assistant", completion)]


def _side(role: str, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [{"role": role, "content": value}]


def _context(turn: Any) -> Any:
    """An answer inside a prompt is what the model was told, not what it is to learn."""
    answer = isinstance(turn, dict) and turn.get("role") == "assistant"
    return {"train": False, **turn} if answer and not given(turn, "weight") else turn


def _alpaca_turns(row: Mapping[str, Any]) -> list[Any]:
    instruction, extra = row["instruction"], row.get("input")
    if extra not in (None, ""):
        both = isinstance(instruction, str) and isinstance(extra, str)
        instruction = f"{instruction}\n\n{extra}" if both else None
    return [{"role": "user", "content": instruction}, *_side("assistant", row.get("output"))]


def _sharegpt_turn(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    turn = {key: value for key, value in item.items() if key not in ("from", "value", "role", "content")}
    speaker = item.get("from")
    if "from" in item:
        turn["role"] = SHAREGPT_ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker
    if speaker == "function_call":
        return {**turn, "tool_calls": [{"type": "function", "function": parsed(item.get("value"))}]}
    return {**turn, "content": item["value"]} if "value" in item else turn


def _canonical_turn(turn: Message) -> Message:
    """Only what templates know, with text for content and objects for the arguments of calls."""
    kept = {key: turn[key] for key in MESSAGE_KEYS if given(turn, key)}
    kept.setdefault("content", "")
    if kept.get("tool_calls"):
        kept["tool_calls"] = [_canonical_call(call) for call in kept["tool_calls"]]
    return kept


def _canonical_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    function = {**function, "arguments": parsed(function.get("arguments", {}))}
    return {"type": "function", **call, "function": function} if "function" in call else function
