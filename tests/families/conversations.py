"""The conversations that every template has to render, and what of each must reach the model."""

from typing import Any

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Bergen"}},
}
_ASKED = {"role": "user", "content": "What is the weather in Bergen?"}

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [_ASKED, {"role": "assistant", "content": "Rain."}]},
    "two turns": {
        "messages": [
            _ASKED,
            {"role": "assistant", "content": "Rain."},
            {"role": "user", "content": "And tomorrow?"},
            {"role": "assistant", "content": "More rain."},
        ]
    },
    "system": {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            _ASKED,
            {"role": "assistant", "content": "Rain."},
        ]
    },
    "tools": {
        "messages": [
            _ASKED,
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "content": '{"sky": "rain"}', "tool_call_id": "call00001", "name": "weather"},
            {"role": "assistant", "content": "It rains."},
        ],
        "tools": [_TOOL],
    },
    "reasoning": {
        "messages": [
            _ASKED,
            {"role": "assistant", "reasoning_content": "Bergen is wet.", "content": "Rain."},
        ]
    },
}


def words_of(message: dict[str, Any]) -> list[str]:
    """The texts of an answer that must be trained: reasoning, names and arguments of calls, content."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    called = [text for function in functions for text in (function["name"], *function["arguments"].values())]
    return [text for text in (message.get("reasoning_content"), *called, message["content"]) if text]
