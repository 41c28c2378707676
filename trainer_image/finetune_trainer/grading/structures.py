"""Graders that read the output's structure: FieldMatch and JsonSchema."""

import json
import math
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading.grades import Grade, scored, ungraded
from finetune_trainer.grading.texts import compiled, pattern_problem, search
from finetune_trainer.grading.values import UnreadableJson, equal_share, parse_json

_Fields = dict[str, list[Any]]  # what each field holds: one value by its name, several by a path


class _NoFields(Exception):  # noqa: N818 - a property of the output, not a defect
    """The text has no fields to compare."""


def field_match(spec: GraderSpec, output: str, reference: str) -> Grade:
    """The mean over the fields of how far the output has what the reference has."""
    try:
        expected = _fields(spec, reference)
        given = _fields(spec, output)
    except _NoFields as nothing:
        return scored(0.0, f"the output {nothing}")
    except TimeoutError as slow:
        return ungraded(str(slow))
    shares = {name: _share(spec, given[name], expected[name]) for name in spec.fields or ()}
    wrong = [
        f"{name} differs" if given[name] else f"{name} is absent"
        for name, share in shares.items()
        if share < 1
    ]
    return scored(sum(shares.values()) / len(shares), "; ".join(wrong)[:500])


def no_fields(spec: GraderSpec, reference: str) -> str | None:
    """Why the reference has not all fields, or None."""
    try:
        expected = _fields(spec, reference)
    except _NoFields as nothing:
        return f"the expected output {nothing}"
    except TimeoutError as slow:
        return str(slow)
    absent = [name for name, values in expected.items() if not values]
    return f"the expected output lacks the field {', '.join(absent)}" if absent else None


def fields_problem(spec: GraderSpec) -> str | None:
    """Why the grader's fields cannot be looked for, or None."""
    if spec.pattern is not None:
        return pattern_problem(spec) or _group_problem(spec)
    for name in filter(_is_path, spec.fields or ()):
        try:
            _path(name)
        except Exception as error:  # the parser raises several kinds, plain ones among them
            return f"the field {name} is not a JSONPath ({error})"
    return None


def json_schema(spec: GraderSpec, output: str, _reference: str) -> Grade:
    """1 if the output is JSON that the schema accepts."""
    try:
        error = _first_error(spec, parse_json(output))
    except UnreadableJson as unreadable:
        return scored(0.0, f"the output {unreadable}")
    except OverflowError:  # `multipleOf` divides
        return scored(0.0, "a number is larger than the schema can be applied to")
    except Unresolvable as missing:
        return ungraded(f"the schema refers to {missing.ref}, which is not part of it")
    return scored(1.0, "") if error is None else scored(0.0, error.message[:200])


def schema_problem(spec: GraderSpec) -> str | None:
    """Why the grader's JSON Schema cannot be used, or None.

    Trying it on small values shows references that lead nowhere or round in circles.
    """
    try:
        for text in ("{}", "[]", '""', "0", "null"):
            _first_error(spec, json.loads(text))
    except ValueError as error:
        return f"the schema is not valid JSON ({error})"
    except jsonschema.SchemaError as error:
        return f"the schema is not a valid JSON Schema ({error.message[:200]})"
    except Unresolvable as missing:
        return f"the schema refers to {missing.ref}, which is not part of it"
    except RecursionError:
        return "the schema nests too deeply or refers to itself without an end"
    except re.error as error:
        return f"the schema has a pattern that is not a regular expression ({error})"
    return None


def _fields(spec: GraderSpec, text: str) -> _Fields:
    names = spec.fields or ()
    if spec.pattern is not None:
        return _groups(spec.pattern, names, text)
    try:
        value = parse_json(text)
    except UnreadableJson as unreadable:
        raise _NoFields(str(unreadable)) from unreadable
    if not isinstance(value, dict) and not all(map(_is_path, names)):
        raise _NoFields("is JSON but not an object")
    return {name: _found(name, value) for name in names}


def _groups(pattern: str, names: Sequence[str], text: str) -> _Fields:
    match = search(pattern, text)
    if match is None:
        raise _NoFields("does not match the pattern")
    return {name: [] if match[name] is None else [match[name]] for name in names}


def _found(name: str, value: Any) -> list[Any]:
    if _is_path(name):
        return [match.value for match in _path(name).find(value)]
    return [value[name]] if name in value else []


def _share(spec: GraderSpec, given: list[Any], expected: list[Any]) -> float:
    if spec.pattern is not None and given and expected:
        return equal_share(_number(given[0]), _number(expected[0]), spec.tolerance or Decimal(0))
    if len(expected) == len(given) == 1:
        return equal_share(given[0], expected[0], spec.tolerance)
    return equal_share(given, expected, spec.tolerance)


def _number(text: str) -> float | str:
    """What a group of a pattern says, as a number where it is one and no longer than a float holds."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) and len(text) <= sys.float_info.dig else text


def _group_problem(spec: GraderSpec) -> str | None:
    groups = compiled(spec.pattern or "").groupindex
    absent = [name for name in spec.fields or () if name not in groups]
    return f"the pattern has no group (?P<{absent[0]}>...)" if absent else None


def _is_path(name: str) -> bool:
    return name.startswith("$")


@lru_cache(maxsize=64)
def _path(name: str) -> Any:
    from jsonpath_ng import parse  # the only grader that needs it

    return parse(name)


def _first_error(spec: GraderSpec, value: Any) -> Any:
    return jsonschema.exceptions.best_match(_validator(spec.schema_text or "").iter_errors(value))


@lru_cache(maxsize=8)
def _validator(schema_text: str) -> Any:
    """A validator that resolves references only inside the schema: grading never opens a connection."""
    schema = json.loads(schema_text)
    if not isinstance(schema, dict | bool):
        raise jsonschema.SchemaError("a schema is an object, true or false")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    return kind(schema, registry=Registry())
