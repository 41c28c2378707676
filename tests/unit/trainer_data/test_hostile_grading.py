"""Outputs and graders that want to break the evaluation: bounded time, no exception, no wrong score."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading import grade, graders, settings_problem

OWN = "tests.unit.trainer_data.own_graders:"
LONG = 100_000
EVIL = r"^(a|aa)+$"
CIRCLE = '{"$defs": {"x": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"}'


def _spec(kind: Any, **values: Any) -> GraderSpec:
    return GraderSpec(name="g", type=kind, **values)


ALL = [
    _spec("ExactMatch"),
    _spec("OneOf", values=("a", "b")),
    _spec("OneOf"),
    _spec("Contains"),
    _spec("Contains", values=("a", "ß")),
    _spec("Regex", pattern=r"(\w+\s?)+$"),
    _spec("FieldMatch", fields=("a", "b"), tolerance="0.1"),
    _spec("FieldMatch", fields=("a",), pattern=r"(?P<a>\w+)", tolerance="0.1"),
    _spec("JsonSchema", schema='{"type": "object", "additionalProperties": {"$ref": "#"}}'),
    _spec("ToolCall"),
    _spec("Similarity", metric="RougeL"),
    _spec("Similarity", metric="ChrF"),
    _spec("Python", grader=f"{OWN}Length"),
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "b"]) | st.text(), inner),
)
TEXTS = st.text() | _JSON.map(lambda value: json.dumps(value))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALL), TEXTS, TEXTS)
def test_any_text_is_graded_within_bounds_or_not_at_all(
    spec: GraderSpec, output: str, reference: str
) -> None:
    result = grade(spec, output, reference)
    assert result.score is None or 0 <= result.score <= 1
    assert (result.score is None) == (result.passed is None)
    assert not result.reason.startswith("the grader failed")


@pytest.mark.parametrize(
    "spec", ALL, ids=lambda spec: f"{spec.type} {spec.values or spec.pattern or spec.metric or ''}"
)
@pytest.mark.parametrize(
    "output",
    ["a" * LONG, "ab " * (LONG // 3), "[" * LONG, "[0" + ",0" * (LONG // 2) + "]", '{"a":' * 60 + "1" + "}" * 60,
     '{"a": "' + "ü" * LONG + '"}', "9" * LONG, "\u0300" * LONG],
    ids=["one word of 100 kB", "many words", "brackets", "a list of 50,000", "an object of 60 levels",
         "an object with a long text", "digits", "accents without a letter"],
)  # fmt: skip
def test_an_output_of_100_kb_is_graded_in_a_second_or_two(spec: GraderSpec, output: str) -> None:
    began = time.process_time()  # the machine may be busy
    result = grade(spec, output, '{"a": 1, "b": [1, 2]}')
    assert time.process_time() - began < 4
    assert result.score is None or 0 <= result.score <= 1


@pytest.mark.parametrize(
    "spec",
    [
        _spec("Regex", pattern=EVIL),
        _spec("FieldMatch", fields=("x",), pattern=r"(?P<x>(a|aa)+)$"),
        _spec("JsonSchema", schema=json.dumps({"pattern": EVIL})),
        _spec("JsonSchema", schema=json.dumps({"type": "string", "not": {"pattern": EVIL}})),
        _spec("Python", grader=f"{OWN}Sleeps"),
    ],
    ids=["Regex", "FieldMatch by a pattern", "a pattern in a schema", "a pattern that must not match", "an own grader that sleeps"],
)  # fmt: skip
def test_a_grader_that_does_not_end_leaves_the_row_ungraded(
    spec: GraderSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graders, "_SECONDS", 0.3)
    began = time.monotonic()
    output = "a" * 60 + "!"
    result = grade(spec, json.dumps(output) if spec.type == "JsonSchema" else output, "aaa")
    assert result.score is None, result
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("output", "reference", "score"),
    [
        ("\uff21\uff23\uff2d\uff25", "ACME", 1.0),
        ("e\u0301te\u0301", "\u00e9t\u00e9", 1.0),
        ("\ufb01ne", "fine", 1.0),
        ("STRASSE", "stra\u00dfe", 1.0),
        ("\u0430cme", "acme", 0.0),
        ("ac\u200bme", "acme", 0.0),
    ],
    ids=["full-width letters are letters", "combined accents are accents", "a ligature is its letters",
         "sharp s is two s", "a Cyrillic a is no Latin one", "an invisible space is a character"],
)  # fmt: skip
def test_look_alikes(output: str, reference: str, score: float) -> None:
    assert grade(_spec("ExactMatch"), output, reference).score == score


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (_spec("Regex", pattern="("), "the pattern is not a regular expression"),
        (_spec("FieldMatch", fields=("x",), pattern="(?P<y>a)"), "the pattern has no group (?P<x>...)"),
        (_spec("FieldMatch", fields=("x",), pattern="(?P<x>"), "the pattern is not a regular expression"),
        (_spec("OneOf", values=("a", " ")), "one of the values is empty"),
        (_spec("JsonSchema", schema="{"), "the schema is not valid JSON"),
        (_spec("JsonSchema", schema='{"type": "no such type"}'), "the schema is not a valid JSON Schema"),
        (_spec("JsonSchema", schema='{"pattern": "("}'), "the schema"),
        (_spec("JsonSchema", schema="5"), "a schema is an object"),
        (_spec("JsonSchema", schema='["type"]'), "a schema is an object"),
        (_spec("JsonSchema", schema='{"$ref": "http://127.0.0.1:1/s"}'), "which is not part of it"),
        (_spec("JsonSchema", schema=CIRCLE), "refers to itself without an end"),
        (_spec("JsonSchema", schema="[" * LONG), "the schema nests too deeply"),
        (_spec("Python", grader="no.such.module:Grader"), "No module named 'no'"),
        (_spec("Python", grader=f"{OWN}Absent"), "has no attribute 'Absent'"),
        (_spec("Python", grader=f"{OWN}NeedsAFile"), "No such file"),
        (_spec("Python", grader="json:JSONDecoder"), "has no attribute 'grade'"),
        (_spec("Python", grader=f"{OWN}Leaves"), "cannot be loaded (no licence)"),
    ],
)
def test_a_grader_that_cannot_work_is_refused_before_any_row(spec: GraderSpec, said: str) -> None:
    assert said in (settings_problem(spec) or "")


@pytest.mark.parametrize("output", ["1e400", "-1e400", "1" + "0" * 400, "[1e400]"])
def test_a_number_that_no_schema_can_be_applied_to_scores_0(output: str) -> None:
    schema = '{"multipleOf": 0.01, "items": {"multipleOf": 0.01}}'
    assert grade(_spec("JsonSchema", schema=schema), output, "").score == 0


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["$.a", "$.a[0].b", "$.a[*].b", "$..b", "$.a[1:2]", "$.a.`parent`.b", "$.*", "$[*]"]),
    TEXTS,
    TEXTS,
)
def test_any_text_is_looked_through_by_a_path(path: str, output: str, reference: str) -> None:
    pytest.importorskip("jsonpath_ng")
    result = grade(_spec("FieldMatch", fields=(path,)), output, reference)
    assert result.score is None or 0 <= result.score <= 1
    assert not result.reason.startswith("the grader failed")


def test_a_path_that_is_none_is_refused_before_any_row() -> None:
    pytest.importorskip("jsonpath_ng")
    problem = settings_problem(_spec("FieldMatch", fields=("$.a[",))) or ""
    assert "the field $.a[ is not a JSONPath" in problem


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.type)
def test_graders_in_order_have_no_problem(spec: GraderSpec) -> None:
    assert settings_problem(spec) is None


@pytest.mark.parametrize(
    ("made", "output", "score", "reason"),
    [
        ("Length", "abc", 0.5, "as long"),
        ("Raises", "abc", None, "the grader failed with RuntimeError"),
        ("Exits", "abc", None, "the grader failed with SystemExit"),
        ("Says", "number", None, "the grader returned float, not a score and a reason"),
        ("Says", "list", None, "the grader returned list, not a score and a reason"),
        ("Says", "two", None, "the grader returned the score 2, which is not between 0 and 1"),
        ("Says", "nan", None, "the grader returned the score nan, which is not between 0 and 1"),
        ("Says", "yes", None, "the grader returned tuple, not a score and a reason"),
        ("Says", "none", None, "cannot tell"),
    ],
)
def test_a_grader_of_ones_own(made: str, output: str, score: float | None, reason: str) -> None:
    result = grade(_spec("Python", grader=f"{OWN}{made}"), output, "xyz")
    assert (result.score, result.reason) == (score, reason)
