"""The shapes that a row can have, and the one shape that everything after the checks uses."""

import json
from dataclasses import dataclass
from typing import Any

SUPPORTED = ("messages", "pairs")
ROLES = ("system", "user", "assistant", "tool")
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
        return json.dumps(self.messages, sort_keys=True, ensure_ascii=False)


def detect(row: dict[str, Any]) -> str:
    """The format of a row: messages, pairs, sharegpt, alpaca, text or unknown."""
    if "messages" in row:
        return "messages"
    if "prompt" in row or "completion" in row:
        return "pairs"
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    return "text" if "text" in row else "unknown"


def turns(row: dict[str, Any]) -> list[Any]:
    """The messages of a row as they are given, with pairs as a user and an assistant turn."""
    if detect(row) == "pairs":
        parts = (("user", "prompt"), ("assistant", "completion"))
        return [{"role": role, "content": row[key]} for role, key in parts if key in row]
    messages = row.get("messages")
    return messages if isinstance(messages, list) else []


def canonical(number: int, row: dict[str, Any]) -> Row:
    """The canonical form of a row that passed the structure checks."""
    given = row.get("id")
    name = str(given) if isinstance(given, str | int) and given != "" else str(number)
    return Row(number, name, tuple(turns(row)))
