"""What each grader accepts, refuses and cannot judge."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading import grade, grade_reference, reference_problem, settings_problem

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
    ("values", "output", "reference", "score"),
    [
        (("yes", "no"), "Yes", "no", 1.0),
        (("yes", "no"), "maybe", "no", 0.0),
        (None, "Big Apple", '["New York", "big apple"]', 1.0),
        (None, "Boston", '["New York", "big apple"]', 0.0),
        (None, "Boston", "Boston", None),
        (None, "Boston", "[]", None),
        (None, "1", "[1]", None),
    ],
    ids=["one of the values", "none of the values", "one of the reference's", "none of the reference's",
         "the reference is no list", "the list is empty", "the list holds a number"],
)  # fmt: skip
def test_one_of(values: tuple[str, ...] | None, output: str, reference: str, score: float | None) -> None:
    assert grade(GraderSpec(name="o", type="OneOf", values=values), output, reference).score == score


@pytest.mark.parametrize(
    ("values", "output", "reference", "score"),
    [
        (None, "The capital is  PARIS.", "Paris", 1.0),
        (None, "The capital is Lyon.", "Paris", 0.0),
        (("red", "green"), "Green and red", "", 1.0),
        (("red", "green"), "Green only", "", 0.0),
        (None, "anything", " ", None),
    ],
    ids=[
        "the reference is in it",
        "the reference is not in it",
        "all values",
        "one value is missing",
        "no reference",
    ],
)
def test_contains(values: tuple[str, ...] | None, output: str, reference: str, score: float | None) -> None:
    assert grade(GraderSpec(name="c", type="Contains", values=values), output, reference).score == score


@pytest.mark.parametrize(
    ("pattern", "output", "score"),
    [
        (r"\d{4}-\d\d-\d\d", "due 2024-05-01", 1.0),
        (r"^\d{4}-\d\d-\d\d$", "due 2024-05-01", 0.0),
        (r"(?i)paris", "PARIS", 1.0),
        (r"Paris", "paris", 0.0),
    ],
    ids=["found anywhere", "anchors hold", "a flag inside", "case counts"],
)
def test_regex(pattern: str, output: str, score: float) -> None:
    assert grade(GraderSpec(name="r", type="Regex", pattern=pattern), output, "").score == score


@pytest.mark.parametrize(
    ("metric", "output", "reference", "score"),
    [
        ("ChrF", "the cat sat on the mat", "the cat lay on the mat", 0.6108866623572505),
        ("ChrF", "Take two tablets a day.", "take two tablets twice a day", 0.6082701663329861),
        ("ChrF", "completely other words", "nothing in common here", 0.17082051207264493),
        ("ChrF", "ab", "abcdef", 0.3125),
        ("ChrF", "", "abc", 0.0),
        ("RougeL", "the cat sat on the mat", "the cat lay on the mat", 0.8333333333333334),
        ("RougeL", "Take two tablets a day.", "take two tablets twice a day", 0.9090909090909091),
        ("RougeL", "a b c d", "d c b a", 0.25),
        ("RougeL", "completely other words", "nothing in common here", 0.0),
        ("RougeL", "same", "Same", 1.0),
        ("RougeL", "", "abc", 0.0),
    ],
)
def test_similarity_is_what_sacrebleu_and_rouge_score_compute(
    metric: Any, output: str, reference: str, score: float
) -> None:
    """Expected: sacrebleu 2.6.0 sentence_score, rouge-score 0.1.2 rougeL fmeasure without a stemmer."""
    spec = GraderSpec(name="s", type="Similarity", metric=metric)
    assert grade(spec, output, reference).score == pytest.approx(score)


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
        ('{"condition": ' + "[" * 70 + "]" * 70 + "}", 0.0, "the output is JSON of more than 64 levels"),
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
        "nested without an end",
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
        ([1, {"a": 2}], [{"a": 2.0}, 1.0], 1.0),
        (10**400, 1.5, 0.0),
        (1.5, 10**400, 0.0),
        (10**400, 10**400, 1.0),
    ],
)
def test_values_are_compared_by_kind(expected: Any, given_: Any, score: float) -> None:
    spec = GraderSpec(name="one", type="FieldMatch", fields=("v",))
    assert grade(spec, json.dumps({"v": given_}), json.dumps({"v": expected})).score == pytest.approx(score)


@pytest.mark.parametrize(
    ("tolerance", "given_", "score"),
    [
        ("0.01", 100.9, 1.0),
        ("0.01", 101.1, 0.0),
        ("0", 100.0000001, 0.0),
        (None, 100.00001, 1.0),
        ("0.01", "100", 0.0),
    ],
    ids=["within it", "beyond it", "none at all", "the last digits do not count", "a text is no number"],
)
def test_a_number_may_be_off_by_the_tolerance(tolerance: str | None, given_: Any, score: float) -> None:
    spec = GraderSpec(name="n", type="FieldMatch", fields=("v",), tolerance=tolerance)
    assert grade(spec, json.dumps({"v": given_}), '{"v": 100}').score == score


@pytest.mark.parametrize(
    ("tolerance", "given_", "expected", "score"),
    [
        pytest.param(None, 2e-10, 1e-10, 0.0, id="twice a small number"),
        pytest.param(None, 1e-12, 0, 0.0, id="little instead of nothing"),
        pytest.param(None, 0.1 + 0.2, 0.3, 1.0, id="a rounded sum"),
        pytest.param("0.1", 7.7, 7, 1.0, id="just within a tenth"),
        pytest.param("0.1", 1.1e-12, 1e-12, 1.0, id="just within a tenth of a small number"),
        pytest.param("0", [0], [1e-12], 0.0, id="nothing instead of little in a list"),
    ],
)
def test_small_numbers_are_compared_as_large_ones(
    tolerance: str | None, given_: Any, expected: Any, score: float
) -> None:
    spec = GraderSpec(name="n", type="FieldMatch", fields=("v",), tolerance=tolerance)
    assert grade(spec, json.dumps({"v": given_}), json.dumps({"v": expected})).score == score


@pytest.mark.parametrize(
    ("field", "output", "reference", "score"),
    [
        pytest.param("v", {"v": [101, 50]}, {"v": [50, 100]}, 1.0, id="numbers of a list"),
        pytest.param("v", {"v": [100, 100]}, {"v": [100, 101]}, 1.0, id="one given number for each expected"),
        pytest.param("v", {"v": [100]}, {"v": [100, 101]}, 2 / 3, id="one given number for two expected"),
        pytest.param("v", {"v": [99.5, 100.9]}, {"v": [100, 99]}, 1.0, id="pairs that only one order allows"),
        pytest.param("v", {"v": [0, "a"]}, {"v": [False, "A"]}, 0.5, id="numbers are no truth values"),
        pytest.param("v", {"v": {"x": 100.5}}, {"v": {"X": 100}}, 1.0, id="a number of an object"),
        pytest.param(
            "v", {"v": {"x": [1.005]}}, {"v": {"x": [1]}}, 1.0, id="a number of a list of an object"
        ),
        pytest.param("v", {"v": {"x": 102}}, {"v": {"x": 100}}, 0.0, id="a number too far off"),
        pytest.param("v", {"v": {"x": 1, "y": 2}}, {"v": {"x": 1}}, 0.0, id="a key too many"),
        pytest.param(
            "$.v[*].x", {"v": [{"x": 2.01}, {"x": 1}]}, {"v": [{"x": 1}, {"x": 2}]}, 1.0, id="a path"
        ),
    ],
)
def test_the_tolerance_holds_in_lists_objects_and_paths(
    field: str, output: Any, reference: Any, score: float
) -> None:
    spec = GraderSpec(name="n", type="FieldMatch", fields=(field,), tolerance="0.01")
    assert grade(spec, json.dumps(output), json.dumps(reference)).score == pytest.approx(score)


TOTAL = r"(?P<what>\w+) costs (?P<price>[\d.]+)"


@pytest.mark.parametrize(
    ("output", "score", "reason"),
    [
        ("I think: Tea costs 2.50", 1.0, ""),
        ("tea costs 3.50", 0.5, "price differs"),
        ("free tea", 0.0, "the output does not match the pattern"),
    ],
    ids=["same values", "another number", "no match"],
)
def test_groups_of_a_pattern_are_fields_of_a_text(output: str, score: float, reason: str) -> None:
    spec = GraderSpec(name="p", type="FieldMatch", fields=("what", "price"), pattern=TOTAL, tolerance="0.01")
    result = grade(spec, output, "Tea costs 2.5 today")
    assert (result.score, result.reason) == (score, reason)


@pytest.mark.parametrize(
    ("output", "reference", "score"),
    [
        pytest.param("42.0", "42", 1.0, id="another spelling of a number"),
        pytest.param("10000001", "10000002", 0.0, id="the next number: it may be an order's"),
        pytest.param("4111111111111111112", "4111111111111111113", 0.0, id="more digits than a float holds"),
        pytest.param("nan", "NaN", 1.0, id="a word that Python takes for a number"),
        pytest.param("seven", "7", 0.0, id="a word"),
    ],
)
def test_groups_that_are_numbers_are_equal_by_value_without_a_tolerance(
    output: str, reference: str, score: float
) -> None:
    spec = GraderSpec(name="p", type="FieldMatch", fields=("it",), pattern=r"(?P<it>\S+)")
    assert grade(spec, output, reference).score == score


@pytest.mark.parametrize(
    ("path", "output", "score"),
    [
        ("$.order.id", '{"order": {"id": 7}}', 1.0),
        ("$.order.id", '{"order": {"id": 8}}', 0.0),
        ("$.order.id", '{"order": 7}', 0.0),
        ("$.items[*].name", '{"items": [{"name": "b"}, {"name": "a"}]}', 1.0),
        ("$.items[*].name", '{"items": [{"name": "b"}]}', 2 / 3),
        ("$.items[*].name", "[]", 0.0),
    ],
    ids=["same", "other", "absent", "several in another order", "one of two", "another shape"],
)
def test_a_path_names_a_field_inside(path: str, output: str, score: float) -> None:
    pytest.importorskip("jsonpath_ng")
    reference = '{"order": {"id": 7}, "items": [{"name": "a"}, {"name": "b"}]}'
    spec = GraderSpec(name="p", type="FieldMatch", fields=(path,))
    assert grade(spec, output, reference).score == pytest.approx(score)


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
    assert settings_problem(SCHEMA) is None


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({"condition": st.text(), "sentiment": st.one_of(st.text(), st.integers(), st.lists(st.text()))}))  # fmt: skip
def test_every_reference_earns_full_marks_against_itself(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    assert grade(FIELDS, text, text).score == 1.0


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (EXACT, "x"),
        (GraderSpec(name="o", type="OneOf"), '["a", "b"]'),
        (GraderSpec(name="o", type="OneOf", values=("a",)), "A"),
        (GraderSpec(name="c", type="Contains"), "a"),
        (GraderSpec(name="s", type="Similarity", metric="ChrF"), "a b"),
    ],
    ids=lambda value: getattr(value, "type", value),
)
def test_a_reference_earns_full_marks(spec: GraderSpec, reference: str) -> None:
    assert grade_reference(spec, reference).score == 1.0


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (GraderSpec(name="o", type="OneOf", values=("a",)), "b"),
        (GraderSpec(name="c", type="Contains", values=("a", "b")), "a"),
        (GraderSpec(name="r", type="Regex", pattern="^a$"), "b"),
    ],
    ids=lambda value: getattr(value, "type", value),
)
def test_a_reference_that_its_grader_refuses_is_found(spec: GraderSpec, reference: str) -> None:
    assert grade_reference(spec, reference).score == 0.0


CALLS = '[{"name": "weather", "arguments": {"city": "Bergen", "days": 3}}, {"name": "now", "arguments": {}}]'


@pytest.mark.parametrize(
    ("output", "score", "reason"),
    [
        (CALLS, 1.0, ""),
        ('[{"name": "now", "arguments": {}}, {"name": "weather", "arguments": {"days": 3.0, "city": "Bergen"}}]', 1.0, ""),
        ('[{"name": "weather", "arguments": {"city": "Bergen", "days": 3}}]', 2 / 3, "calls weather instead of now, weather"),
        ('[{"name": "weather", "arguments": {"city": "bergen", "days": 3}}, {"name": "now", "arguments": {}}]', 0.5,
         "calls now, weather with other arguments"),
        ("[]", 0.0, "calls nothing instead of now, weather"),
        ('{"name": "now", "arguments": {}}', 2 / 3, "calls now instead of now, weather"),
        ('["now"]', 0.0, "the output is JSON but not a list of calls"),
        ("It rains.", 0.0, "the output is not JSON"),
    ],
    ids=["same", "another order", "one is missing", "an argument differs", "none", "one call alone", "a list of texts", "prose"],
)  # fmt: skip
def test_tool_call(output: str, score: float, reason: str) -> None:
    result = grade(GraderSpec(name="t", type="ToolCall"), output, CALLS)
    assert (result.score, result.reason) == (pytest.approx(score), reason)


@pytest.mark.parametrize(
    ("output", "reference", "score"), [("[]", "[]", 1.0), (CALLS, "[]", 0.0), ("[]", "It rains.", None)],
    ids=["no call is right", "a call too many", "the reference is no call"],
)  # fmt: skip
def test_an_answer_may_have_to_call_nothing(output: str, reference: str, score: float | None) -> None:
    assert grade(GraderSpec(name="t", type="ToolCall"), output, reference).score == score
