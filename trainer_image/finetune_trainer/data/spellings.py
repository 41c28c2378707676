"""Other spellings of messages, tools and calls, brought into the one that rules and training know.

A row is respelled once, before any rule looks at it. Read are the forms of OpenAI's older interface
(`function_call`, role `function`, `functions`), content as a list of parts, messages as JSON text,
`thinking` and `reasoning`, `loss`, and the nulls with which Arrow pads what differs from row to row. What
has no meaning here stays as it is: the rules name it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_trainer.reading.strict_json import parse_json

Message = dict[str, Any]
_LISTS = ("messages", "conversations", "prompt", "completion")
_AS_TEXT = ("messages", "conversations")  # lists that some write as JSON text
_TEXT_PARTS = ("text", "input_text", "output_text")
# In a schema null is a value of these two alone; under any other key it is padding.
_NULLABLE = {"default", "const"}


def given(row: Mapping[str, Any], key: str) -> bool:
    """Whether a key has a value: tables hold null where JSON lines leave the key out."""
    return row.get(key) is not None


def parsed(value: Any) -> Any:
    """A value that may be given as JSON text; text that is no JSON stays text."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode())
    except ValueError:
        return value


def respelled(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of any format in the one spelling: its messages, and `tools` as a list or None."""
    row = {**row, **{key: parsed(row[key]) for key in _AS_TEXT if key in row}}
    listed = (key for key in _LISTS if isinstance(row.get(key), list))
    changed = {key: [_respelled_turn(turn) for turn in row[key]] for key in listed}
    rest = dict(row)
    tools = parsed(row.get("tools"))
    if tools in (None, "", []) and given(row, "functions"):
        tools = _as_tools(parsed(rest.pop("functions")))
    if tools == "":  # an empty cell of a table
        tools = None
    padded = tools is not None and "null" in json.dumps(tools)
    return {**rest, **changed, "tools": _without_padding(tools) if padded else tools}


def _as_tools(functions: Any) -> Any:
    if not isinstance(functions, list):
        return functions
    return [{"type": "function", "function": function} for function in functions]


def _respelled_turn(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    turn = dict(turn)
    if turn.get("role") == "function":
        turn["role"] = "tool"
    if turn.get("tool_calls") == []:
        del turn["tool_calls"]
    if not given(turn, "tool_calls") and "function_call" in turn:
        _take_call(turn, turn.pop("function_call"))
    for key in ("thinking", "reasoning"):
        if isinstance(turn.get(key), str) and not given(turn, "reasoning_content"):
            turn["reasoning_content"] = turn.pop(key)
    if not given(turn, "train") and turn.get("loss") in (0, 1):
        turn["train"] = bool(turn.pop("loss"))
    for key in ("content", "value"):
        if isinstance(turn.get(key), list):
            turn[key] = _joined(turn[key])
    return turn


def function_of(tool_or_call: Any) -> Any:
    """The object with the name in a tool or a call, which may stand alone or under `function`."""
    if not isinstance(tool_or_call, dict):
        return None
    return tool_or_call["function"] if given(tool_or_call, "function") else tool_or_call


def arguments_of(function: Mapping[str, Any]) -> Any:
    """The arguments of a call, an object unless they are wrong; none at all are an empty object."""
    arguments = parsed(function.get("arguments"))
    return {} if arguments is None or (isinstance(arguments, str) and not arguments.strip()) else arguments


def tool_named(tools: Iterable[Any], name: Any) -> dict[str, Any] | None:
    """The object of the tool with this name, None without one."""
    named = (tool for tool in map(function_of, tools) if isinstance(tool, dict) and tool.get("name") == name)
    return next(named, None)


def parameters_of(tool: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The schemas of a tool's parameters by their names; None if it names none."""
    parameters = tool.get("parameters") if tool else None
    named = parameters.get("properties") if isinstance(parameters, dict) else None
    return named if isinstance(named, dict) else None


def without_null_arguments(arguments: dict[str, Any], tool: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments without those that are null, unless that is a value which their parameter can have.

    So too in the objects within them. Names that a schema lacks are judged by its additionalProperties. Where
    it does not say, null under them is the padding of other calls; but an object within the arguments whose
    schema names no properties may hold anything, so null may be meant there.
    """
    parameters = tool.get("parameters") if tool else None
    schema = parameters if isinstance(parameters, dict) else {}
    return _without_null_properties(arguments, {"additionalProperties": False, **schema})


def _without_null_properties(value: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    given_names = schema.get("properties")
    named = given_names if isinstance(given_names, dict) else {}
    rest = schema.get("additionalProperties", not named)
    return {
        key: _without_nulls(item, named.get(key, rest))
        for key, item in value.items()
        if item is not None or _takes_null(named.get(key, rest))
    }


def _without_nulls(value: Any, schema: Any) -> Any:
    if not isinstance(schema, dict):
        return value
    others = [choice for choice in _choices(schema) if not _takes_null(choice)]
    if len(others) == 1 and "properties" not in schema:
        return _without_nulls(value, others[0])
    if isinstance(value, list):
        return [_without_nulls(item, schema.get("items")) for item in value]
    return _without_null_properties(value, schema) if isinstance(value, dict) else value


def _choices(schema: dict[str, Any]) -> list[Any]:
    choices = schema.get("anyOf", schema.get("oneOf"))
    return choices if isinstance(choices, list) else []


def _take_call(turn: Message, function: Any) -> None:
    padding = isinstance(function, dict) and all(value in (None, "") for value in function.values())
    if function is not None and not padding:
        turn["tool_calls"] = [{"type": "function", "function": function}]


def _joined(parts: list[Any]) -> Any:
    """The text of parts as the engine joins them (vLLM, for templates that take text); else the parts."""
    texts = [_text(part) for part in parts]
    return parts if None in texts else "\n".join(text for text in texts if text is not None)


def _text(part: Any) -> str | None:
    if isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
        part = part.get("text")
    return part if isinstance(part, str) else None


def _without_padding(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_padding(item) for item in value]
    if not isinstance(value, dict):
        return value
    padded = not {key for key, item in value.items() if item is None} <= _NULLABLE
    return {key: _without_padding(item) for key, item in value.items() if item is not None or not padded}


def _takes_null(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return schema is True
    if schema.get("nullable") is True:  # OpenAPI 3.0
        return True
    if "type" in schema:
        return "null" in schema["type"] if isinstance(schema["type"], list) else schema["type"] == "null"
    if choices := _choices(schema):
        return any(map(_takes_null, choices))
    return None in schema["enum"] if isinstance(schema.get("enum"), list) else True
