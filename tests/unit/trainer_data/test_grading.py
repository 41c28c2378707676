"""What each grader accepts, refuses and cannot judge."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading import grade, reference_problem, schema_problem

EXACT = GraderSpec(name="exact", type="ExactMatch")
FIELDS = GraderSpec(name="fields", type="FieldMatch", fields=("condition", "sentiment"))
SCHEMA = GraderSpec(
    name="format", type="JsonSchema", schema='{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}'
)  # fmt: skip
REFERENCE = '{"condition": "Acne", "sentiment": "positive"}'


@pytest.mark.parametrize(
    ("output", "reference", "score"),
    [
        ("Paris", "paris", 1.0),
        ("  Paris\n", "Paris", 1.0),
        ("\uff30aris", "Paris", 1.0),
        ("Paris.", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("Paris", " ", None),
    ],
    ids=["case", "white space", "full-width letter", "other text", "empty output", "no reference"],
)
def test_exact_match(output: str, reference: str, score: float | None) -> None:
    assert grade(EXACT, output, reference).score == score


@pytest.mark.parametrize(
    ("output", "score", "reason"),
    [
        (REFERENCE, 1.0, ""),
        ('```json\n{"condition": "ACNE", "sentiment": "positive"}\n```', 1.0, ""),
        ('{"condition": "Acne"}', 0.5, "sentiment is absent"),
        ('{"condition": "Pain", "sentiment": "positive", "more": 1}', 0.5, "condition differs"),
        ('Sure! {"condition": "Acne", "sentiment": "positive"}', 0.0, "the output is not JSON"),
        ('["Acne"]', 0.0, "the output is JSON but not an object"),
        ('{"condition": NaN}', 0.0, "the output is not JSON"),
        ("[" * 100_000, 0.0, "the output is not JSON"),
        ("", 0.0, "the output is not JSON"),
    ],
    ids=[
        "same",
        "fenced",
        "one absent",
        "one wrong",
        "prose around",
        "list",
        "NaN",
        "deeply nested",
        "empty",
    ],
)
def test_field_match(output: str, score: float, reason: str) -> None:
    result = grade(FIELDS, output, REFERENCE)
    assert (result.score, result.reason, result.passed) == (score, reason, score == 1.0)


@pytest.mark.parametrize(
    ("expected", "given_", "score"),
    [
        (1.0, 1, 1.0),
        (0.1, 0.10000000001, 1.0),
        (1, True, 0.0),
        (None, "", 0.0),
        (["a", "b"], ["B", "a"], 1.0),
        (["a", "b"], ["a"], 2 / 3),
        (["a"], "a", 0.0),
        ([], [], 1.0),
        ({"x": [1]}, {"x": [1]}, 1.0),
        ("1", 1, 0.0),
    ],
)
def test_values_are_compared_by_kind(expected: Any, given_: Any, score: float) -> None:
    spec = GraderSpec(name="one", type="FieldMatch", fields=("v",))
    assert grade(spec, json.dumps({"v": given_}), json.dumps({"v": expected})).score == pytest.approx(score)


@pytest.mark.parametrize(
    ("output", "score"), [('{"a": 1}', 1.0), ('{"a": "1"}', 0.0), ("{}", 0.0), ("no", 0.0)]
)
def test_json_schema(output: str, score: float) -> None:
    assert grade(SCHEMA, output, "").score == score


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (FIELDS, "prose"),
        (FIELDS, "[]"),
        (FIELDS, '{"condition": "Acne"}'),
        (GraderSpec(name="s", type="JsonSchema", schema="{"), ""),
        (GraderSpec(name="s", type="JsonSchema", schema='{"type": "no such type"}'), ""),
        (GraderSpec(name="s", type="JsonSchema", schema='{"$ref": "http://127.0.0.1:1/schema.json"}'), ""),
    ],
    ids=["reference is prose", "reference is a list", "reference lacks a field", "schema is not JSON",
         "schema is not a schema", "schema refers to the network"],
)  # fmt: skip
def test_a_grader_that_cannot_work_leaves_the_row_ungraded(spec: GraderSpec, reference: str) -> None:
    result = grade(spec, '{"a": 1}', reference)
    assert result.score is None
    assert result.passed is None
    assert result.reason


def test_problems_are_found_before_any_output_exists() -> None:
    assert reference_problem(FIELDS, '{"condition": "x"}') == "the expected output lacks the field sentiment"
    assert reference_problem(FIELDS, REFERENCE) is None
    assert reference_problem(SCHEMA, "") is None
    assert schema_problem(SCHEMA) is None
    assert "not valid JSON" in (schema_problem(GraderSpec(name="s", type="JsonSchema", schema="{")) or "")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([EXACT, FIELDS, SCHEMA]), st.text(), st.one_of(st.text(), st.just(REFERENCE)))
def test_any_text_is_graded_within_bounds_or_not_at_all(
    spec: GraderSpec, output: str, reference: str
) -> None:
    result = grade(spec, output, reference)
    assert result.score is None or 0 <= result.score <= 1
    assert (result.score is None) == (result.passed is None)


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({"condition": st.text(), "sentiment": st.one_of(st.text(), st.integers(), st.lists(st.text()))}))  # fmt: skip
def test_every_reference_earns_full_marks_against_itself(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    assert grade(FIELDS, text, text).score == 1.0
