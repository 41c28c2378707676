"""ExactMatch, FieldMatch and JsonSchema."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable

from finetune_trainer.contracts import GraderSpec, GraderType
from finetune_trainer.grading.values import UnreadableJson, equal_share, normalise, parse_json

# Types that need a network or a pod of their own: their rows are graded after all answers are stored.
DEFERRED: frozenset[GraderType] = frozenset()
NOT_YET = "not graded yet"


@dataclass(frozen=True)
class Grade:
    """A score in [0, 1], whether it is full marks, and why not; score and passed are None if ungraded."""

    score: float | None
    passed: bool | None
    reason: str


def grade(spec: GraderSpec, output: str, reference: str) -> Grade:
    """Score one output; an unexpected failure of the grader itself leaves the row ungraded.

    So does a deferred type, until its owner grades the row.
    """
    if spec.type in DEFERRED:
        return _ungraded(NOT_YET)
    try:
        return _GRADERS[spec.type](spec, output, reference)
    except Exception as error:  # a defect of one grader on one row must not end an evaluation of thousands
        return _ungraded(f"the grader failed with {type(error).__name__}")


def reference_problem(spec: GraderSpec, reference: str) -> str | None:
    """Why `reference` gives this grader no ground truth, or None (rule 42 of the data checks)."""
    if spec.type == "ExactMatch":
        return None if normalise(reference) else "the expected output is empty"
    if spec.type == "FieldMatch":
        return _field_problem(spec, reference)
    return None


def schema_problem(spec: GraderSpec) -> str | None:
    """Why the grader's JSON Schema cannot be used, or None."""
    if spec.type != "JsonSchema":
        return None
    try:
        _validator(spec.schema_text or "")
    except json.JSONDecodeError as error:
        return f"the schema is not valid JSON ({error})"
    except jsonschema.SchemaError as error:
        return f"the schema is not a valid JSON Schema ({error.message})"
    return None


def _exact_match(spec: GraderSpec, output: str, reference: str) -> Grade:
    if problem := reference_problem(spec, reference):
        return _ungraded(problem)
    same = normalise(output) == normalise(reference)
    return _graded(float(same), "" if same else "differs from the expected output")


def _field_match(spec: GraderSpec, output: str, reference: str) -> Grade:
    if problem := reference_problem(spec, reference):
        return _ungraded(problem)
    try:
        answer = parse_json(output)
    except UnreadableJson as error:
        return _graded(0.0, str(error))
    if not isinstance(answer, dict):
        return _graded(0.0, "the output is JSON but not an object")
    expected, fields = parse_json(reference), spec.fields or ()
    shares = {name: equal_share(answer[name], expected[name]) if name in answer else 0.0 for name in fields}
    wrong = [
        f"{name} is absent" if name not in answer else f"{name} differs"
        for name in fields
        if shares[name] < 1
    ]
    return _graded(sum(shares.values()) / len(shares), "; ".join(wrong))


def _json_schema(spec: GraderSpec, output: str, _reference: str) -> Grade:
    if problem := schema_problem(spec):
        return _ungraded(problem)
    try:
        answer = parse_json(output)
        error = jsonschema.exceptions.best_match(_validator(spec.schema_text or "").iter_errors(answer))
    except UnreadableJson as unreadable:
        return _graded(0.0, str(unreadable))
    except Unresolvable as missing:
        return _ungraded(f"the schema refers to {missing.ref}, which is not part of it")
    return _graded(1.0, "") if error is None else _graded(0.0, error.message[:200])


_GRADERS: dict[str, Callable[[GraderSpec, str, str], Grade]] = {
    "ExactMatch": _exact_match,
    "FieldMatch": _field_match,
    "JsonSchema": _json_schema,
}


def _field_problem(spec: GraderSpec, reference: str) -> str | None:
    try:
        expected = parse_json(reference)
    except UnreadableJson:
        return "the expected output is not JSON"
    if not isinstance(expected, dict):
        return "the expected output is not a JSON object"
    absent = [name for name in spec.fields or () if name not in expected]
    return f"the expected output lacks the field {', '.join(absent)}" if absent else None


@lru_cache(maxsize=8)
def _validator(schema_text: str) -> Any:
    """A validator that resolves references only inside the schema: grading never opens a connection."""
    schema = json.loads(schema_text)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    return kind(schema, registry=Registry())


def _graded(score: float, reason: str) -> Grade:
    return Grade(score, score >= 1.0, reason)


def _ungraded(reason: str) -> Grade:
    return Grade(None, None, reason)
