"""What of a conversation its rendered text holds: templates leave out what they do not know."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from finetune_trainer.chat.messages import calls_of, reasoning_of
from finetune_trainer.chat.reasoning import split_reasoning
from finetune_trainer.data.spellings import Message

Part = Literal["content", "system", "tools", "calls", "reasoning"]


def lost_parts(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    text: str,
    answers: Mapping[int, str],
) -> frozenset[Part]:
    """The parts of messages and tools that are not in their rendered `text`.

    `answers` are what is trained, by the places of their messages. Reasoning is looked for in these alone:
    templates leave it out of earlier turns on purpose.
    """
    parts: dict[Part, Iterator[str]] = {
        "content": (_content(message) for message in messages if message["role"] != "system"),
        "system": (message["content"] for message in messages if message["role"] == "system"),
        "tools": (tool.get("function", tool)["name"] for tool in tools),
        "calls": (value for message in messages for value in _said_by_calls(message)),
    }
    lost: set[Part] = {part for part, values in parts.items() if not all(_holds(text, v) for v in values)}
    if not all(_holds(written, reasoning_of(messages[place])) for place, written in answers.items()):
        lost.add("reasoning")
    return frozenset(lost)


def _content(message: Message) -> str:
    content = str(message.get("content") or "")
    return split_reasoning(content)[1] if message["role"] == "assistant" else content


def _said_by_calls(message: Message) -> Iterator[str]:
    for call in calls_of(message):
        yield call["name"]
        yield from _leaves(call.get("arguments"))


def _leaves(value: Any) -> Iterator[str]:
    """The texts and numbers of arguments; true, false and null are written in several ways."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield str(value)


def _holds(text: str, value: str) -> bool:
    """Whether a text holds a value as it is, as JSON writes it, or with other white space."""
    if not value.strip() or value.strip() in text:
        return True
    escaped = (json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return any(form in text for form in escaped) or " ".join(value.split()) in " ".join(text.split())
