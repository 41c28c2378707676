"""The rule about tools and calls of them (data rule 15)."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from finetune_trainer.data.formats import parsed, turns
from finetune_trainer.data.rowrule import RowRule


def _bad_tools(row: dict[str, Any]) -> str | None:
    tools = row.get("tools")
    if tools not in (None, "") and (problem := _tools_problem(tools)):  # "" is an empty cell of a table
        return problem
    return next(_call_problems(row), None)


def _call_problems(row: dict[str, Any]) -> Iterator[str]:
    for position, turn in enumerate(turns(row), start=1):
        if not isinstance(turn, dict) or not turn.get("tool_calls"):
            continue
        calls = turn["tool_calls"]
        if not isinstance(calls, list):
            yield f"`tool_calls` of message {position} is no list"
            continue
        for call in calls:
            if problem := _call_problem(call):
                yield f"a tool call of message {position} {problem}"


def _call_problem(call: Any) -> str | None:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return "is no JSON object with `name` and `arguments`"
    if not isinstance(function.get("name"), str):
        return "lacks the name of its function"
    if not isinstance(parsed(function.get("arguments", {})), dict):
        return "has arguments that are no JSON object"
    return None


def _tools_problem(tools: Any) -> str | None:
    tools = parsed(tools)
    if not isinstance(tools, list):
        return "`tools` is no JSON list"
    return _listed_tools_problem(json.dumps(tools))


@lru_cache(maxsize=256)  # most rows of a data set name the same tools, and checking a schema is slow
def _listed_tools_problem(text: str) -> str | None:
    problems = ((i, _tool_problem(tool)) for i, tool in enumerate(json.loads(text), start=1))
    return next((f"tool {i} of `tools` {problem}" for i, problem in problems if problem), None)


def _tool_problem(tool: Any) -> str | None:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return "is no object with the name of a function"
    parameters = function.get("parameters", {})
    if not isinstance(parameters, dict):
        return "has `parameters` that are no JSON Schema"
    try:
        Draft202012Validator.check_schema(parameters)
    except (SchemaError, RecursionError):
        return "has `parameters` that are no JSON Schema"
    return None


RULES: tuple[RowRule[dict[str, Any]], ...] = (
    RowRule(15, "bad_tool_json", _bad_tools, "write it as the model is to write it"),
)
