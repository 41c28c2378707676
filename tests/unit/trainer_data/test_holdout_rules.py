"""Rules about the hold-out."""

import pytest

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import (
    HoldoutRow,
    duplicate_ids,
    eval_no_reference,
    eval_reference_fails,
    eval_size,
    reference_too_long,
    split_reference,
)

EXACT = GraderSpec(name="exact", type="ExactMatch")
FIELDS = GraderSpec(name="fields", type="FieldMatch", fields=("a",))
FORMAT = GraderSpec(name="format", type="JsonSchema", schema="{}")
NEEDS_A = GraderSpec(name="needs a", type="JsonSchema", schema='{"required": ["a"]}')


def _row(number: int, *turns: tuple[str, str]) -> Row:
    return Row(number, str(number), tuple({"role": role, "content": content} for role, content in turns))


def _held(number: int, prompt: str = "p", reference: str = "r", row_id: str | None = None) -> HoldoutRow:
    return HoldoutRow(number, row_id or str(number), ({"role": "user", "content": prompt},), reference)


def test_the_closing_assistant_turn_is_the_reference() -> None:
    row = split_reference(_row(1, ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")))
    assert [turn["content"] for turn in row.messages] == ["a", "b", "c"]
    assert row.reference == "d"


def test_the_group_of_a_row_is_kept() -> None:
    row = Row(1, "1", ({"role": "user", "content": "a"},), group="document 7")
    assert split_reference(row).group == "document 7"


def test_a_row_that_ends_with_the_user_has_no_reference() -> None:
    assert split_reference(_row(1, ("user", "a"))).reference == ""


@pytest.mark.parametrize(
    ("count", "severity"), [(49, "error"), (50, "warning"), (99, "warning"), (100, None)]
)
def test_eval_size(count: int, severity: str | None) -> None:
    finding = eval_size([_held(number) for number in range(count)])
    assert (finding.severity if finding else None) == severity


@pytest.mark.parametrize(
    ("graders", "reference", "names"),
    [
        ([EXACT], "", "exact"),
        ([EXACT], "x", None),
        ([FORMAT], "", None),
        ([FORMAT, FIELDS], "prose", "fields"),
        ([FIELDS], '{"b": 1}', "fields"),
        ([FIELDS], '{"a": null}', None),
    ],
    ids=["exact needs one", "exact has one", "a schema needs none", "fields need JSON", "a field is absent", "null is a value"],
)  # fmt: skip
def test_eval_no_reference(graders: list[GraderSpec], reference: str, names: str | None) -> None:
    finding = eval_no_reference([_held(5, reference=reference)], graders)
    assert (finding is not None) == (names is not None)
    if finding:
        assert f"Grader {names} cannot judge row 5" in finding.message


@pytest.mark.parametrize(
    ("long", "severity"),
    [(0, None), (5, "warning"), (6, "error")],
    ids=["all fit", "a few are cut", "many are cut"],
)
def test_reference_too_long(long: int, severity: str | None) -> None:
    sizes = [256] * (100 - long) + [300] * long
    finding = reference_too_long([_held(number) for number in range(1, 101)], sizes, 256)
    assert (finding.severity if finding else None) == severity
    if finding:
        assert finding.count == long
        assert "raise it above 300" in finding.message


def test_ids_must_be_distinct() -> None:
    finding = duplicate_ids([_held(1, row_id="a"), _held(2, row_id="b"), _held(3, row_id="a")])
    assert finding is not None
    assert finding.rows == (3,)
    assert duplicate_ids([_held(1), _held(2)]) is None


@pytest.mark.parametrize(
    ("graders", "reference", "fails"),
    [
        ([EXACT], "x", False),
        ([FIELDS], '{"a": 1}', False),
        ([FORMAT], "prose", True),
        ([NEEDS_A, EXACT], '{"b": 1}', True),
        ([NEEDS_A], '{"a": 1}', False),
        ([FIELDS], "prose", False),
        ([FORMAT], "", False),
    ],
    ids=["exact", "fields", "prose is no JSON", "the schema wants another key", "the schema is met",
         "rule 42 has what cannot be judged", "no answer is expected"],
)  # fmt: skip
def test_eval_reference_fails(graders: list[GraderSpec], reference: str, fails: bool) -> None:
    finding = eval_reference_fails([_held(5, reference=reference)], graders)
    assert (finding is not None) == fails
    if finding:
        assert finding.rows == (5,)
        assert f"row 5, {graders[0].name}: " in finding.message
