"""Messages as the engine's API takes them, and as its renderer hands them to the chat template.

The second is what vLLM 0.32 makes of the first (`renderers/chat_utils.py`, `parse_chat_messages`, and the
serialisers of its tools): a contract test compares tokens. Rows are rendered in it, so that a template sees
the same values in training and in serving.
"""

import json
from collections.abc import Sequence
from typing import Any

from finetune_trainer.chat.reasoning import split_reasoning
from finetune_trainer.data.spellings import Message

_PLAIN = ("role", "content", "name", "tool_call_id")
_OF_FUNCTIONS = ("strict", "defer_loading")


def requested(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Canonical messages as a request carries them: the arguments of calls are JSON text."""
    return [_requested(message) for message in messages]


def served(message: Message, *, text_arguments: bool = False) -> dict[str, Any]:
    """A canonical message as the template gets it; the arguments of calls are objects, or JSON text."""
    kept = _plain(message)
    if message.get("tool_calls"):
        kept["tool_calls"] = _calls(message, text=text_arguments)
    if reasoning := message.get("reasoning_content"):
        kept |= {"reasoning": reasoning, "reasoning_content": reasoning}
    return kept


def answered(message: Message, *, text_arguments: bool = False) -> dict[str, Any]:
    """The answer that is trained, as `served`; its reasoning also under the name that gpt-oss reads."""
    reasoning = message.get("reasoning_content")
    return served(message, text_arguments=text_arguments) | ({"thinking": reasoning} if reasoning else {})


def served_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The functions that a row offers, with the keys that the engine keeps, in its order."""
    return [{"type": "function", "function": _function(tool.get("function", tool))} for tool in tools]


def reasoning_of(message: Message) -> str:
    """The reasoning of an answer, apart from its content or inside it; "" without any."""
    return str(message.get("reasoning_content") or split_reasoning(message.get("content") or "")[0])


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The calls of a message, each with `name` and `arguments`."""
    return [call.get("function", call) for call in message.get("tool_calls") or ()]


def _plain(message: Message) -> dict[str, Any]:
    return {key: message[key] for key in _PLAIN if key in message}


def _requested(message: Message) -> dict[str, Any]:
    kept = _plain(message)
    if message.get("tool_calls"):
        kept["tool_calls"] = _calls(message, text=True)
    if reasoning := message.get("reasoning_content"):
        kept["reasoning"] = reasoning
    return kept


def _calls(message: Message, *, text: bool) -> list[dict[str, Any]]:
    return [_call(call, place, text=text) for place, call in enumerate(message["tool_calls"])]


def _call(call: dict[str, Any], place: int, *, text: bool) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments") or {}
    given = json.dumps(arguments, ensure_ascii=False) if text else arguments
    named = {"name": function["name"], "arguments": given}
    # The API wants an id with every call, so a template sees one where a row has none.
    return {"id": call.get("id") or f"call_{place}", "type": "function", "function": named}


def _function(function: dict[str, Any]) -> dict[str, Any]:
    more = {key: function[key] for key in _OF_FUNCTIONS if function.get(key) is not None}
    named = {key: function.get(key) for key in ("name", "description", "parameters")}
    return {**named, **more}
