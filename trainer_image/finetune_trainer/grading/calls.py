"""ToolCall: the functions that an answer calls, and with what."""

from collections import Counter
from typing import Any

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading.grades import Grade, scored
from finetune_trainer.grading.values import UnreadableJson, canonical_json, f1, parse_json


def tool_call(_spec: GraderSpec, output: str, reference: str) -> Grade:
    """The F1 of the calls, in any order; a call is right if its name and all its arguments are."""
    try:
        given = _calls(output)
    except UnreadableJson as unreadable:
        return scored(0.0, f"the output {unreadable}")
    expected = _calls(reference)
    score = f1(map(canonical_json, given), map(canonical_json, expected))
    return scored(score, "" if score == 1 else _difference(given, expected))


def no_calls(_spec: GraderSpec, reference: str) -> str | None:
    """Why the reference says not what to call, or None; an empty list says to call nothing."""
    try:
        _calls(reference)
    except UnreadableJson:
        return "the expected output is no call (give `tool_calls`, or a JSON list of `name` and `arguments`)"
    return None


def _calls(text: str) -> list[dict[str, Any]]:
    value = parse_json(text)
    calls = value if isinstance(value, list) else [value]
    if not all(map(_is_call, calls)):
        raise UnreadableJson("is JSON but not a list of calls")
    return [{"name": call["name"], "arguments": call["arguments"]} for call in calls]


def _is_call(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("arguments"), dict)
    )


def _difference(given: list[dict[str, Any]], expected: list[dict[str, Any]]) -> str:
    mine, theirs = (Counter(call["name"] for call in calls) for calls in (given, expected))
    if mine != theirs:
        return f"calls {_listed(mine)} instead of {_listed(theirs)}"
    return f"calls {_listed(theirs)} with other arguments"


def _listed(names: Counter[str]) -> str:
    return ", ".join(sorted(names.elements()))[:200] or "nothing"
