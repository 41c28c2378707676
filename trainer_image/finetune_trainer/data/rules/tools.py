"""The rule about tools and calls of them (data rule 15)."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from finetune_trainer.data.formats import turns
from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.data.spellings import (
    arguments_of,
    function_of,
    parameters_of,
    tool_named,
    without_null_arguments,
)

_FREE = ("additionalProperties", "patternProperties")  # schemas with them take arguments without a name


def _bad_tools(row: dict[str, Any]) -> str | None:
    if (tools := row.get("tools")) and (problem := _tools_problem(tools)):
        return problem
    return next(_call_problems(row), None)


def _call_problems(row: dict[str, Any]) -> Iterator[str]:
    for position, calls in _calls(row):
        if not isinstance(calls, list):
            yield f"`tool_calls` of message {position} is no list"
            continue
        for call in calls:
            if problem := _call_problem(call):
                yield f"a tool call of message {position} {problem}"


def _calls(row: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """The calls of each message that has some, and its position."""
    for position, turn in enumerate(turns(row), start=1):
        if isinstance(turn, dict) and turn.get("tool_calls"):
            yield position, turn["tool_calls"]


def _call_problem(call: Any) -> str | None:
    function = function_of(call)
    if not isinstance(function, dict):
        return "is no JSON object with `name` and `arguments`"
    if not isinstance(function.get("name"), str):
        return "lacks the name of its function"
    if not isinstance(arguments_of(function), dict):
        return "has arguments that are no JSON object"
    return None


def _mismatch(row: dict[str, Any]) -> str | None:
    """How a call differs from what `tools` tells the model; rows without tools leave it open."""
    tools = row.get("tools")
    if not tools or not isinstance(tools, list):
        return None
    for position, calls in _calls(row):
        for call in calls if isinstance(calls, list) else ():
            if _call_problem(call) is None and (problem := _unlike_tool(function_of(call), tools)):
                return f"a tool call of message {position} {problem}"
    return None


def _unlike_tool(call: dict[str, Any], tools: list[Any]) -> str | None:
    name = call["name"]
    tool = tool_named(tools, name)
    if tool is None:
        return f"calls `{name}`, which `tools` does not name"
    parameters = parameters_of(tool)
    if parameters is None or any(tool["parameters"].get(key) for key in _FREE):
        return None
    arguments = without_null_arguments(arguments_of(call), tool)
    unknown = next((argument for argument in arguments if argument not in parameters), None)
    return None if unknown is None else f"gives `{unknown}`, which is no parameter of `{name}`"


def _tools_problem(tools: Any) -> str | None:
    if not isinstance(tools, list):
        return "`tools` or `functions` is no JSON list"
    return _listed_tools_problem(json.dumps(tools))


@lru_cache(maxsize=256)  # most rows of a data set name the same tools, and checking a schema is slow
def _listed_tools_problem(text: str) -> str | None:
    problems = ((i, _tool_problem(tool)) for i, tool in enumerate(json.loads(text), start=1))
    return next((f"tool {i} of `tools` {problem}" for i, problem in problems if problem), None)


def _tool_problem(tool: Any) -> str | None:
    function = function_of(tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return "is no object with the name of a function"
    parameters = function.get("parameters", {})
    if not isinstance(parameters, dict):
        return f"(`{function['name']}`) has `parameters` that are no object"
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        place = ".".join(map(str, ["parameters", *error.absolute_path]))
        return f"(`{function['name']}`) is no JSON Schema at `{place}`: {error.message[:100]}"
    except RecursionError:
        return f"(`{function['name']}`) has `parameters` that nest too deep"
    return None


RULES: tuple[RowRule[dict[str, Any]], ...] = (
    RowRule(15, "bad_tool_json", _bad_tools, "write it as the model is to write it"),
    RowRule(15, "tool_call_mismatch", _mismatch, "correct the call or the tool", "warning"),
)
