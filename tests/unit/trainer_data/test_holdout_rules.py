"""Rules about the hold-out."""

import pytest

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import (
    HoldoutRow,
    duplicate_ids,
    eval_no_reference,
    eval_size,
    leak_exact,
    split_reference,
)

EXACT = GraderSpec(name="exact", type="ExactMatch")
FIELDS = GraderSpec(name="fields", type="FieldMatch", fields=("a",))
FORMAT = GraderSpec(name="format", type="JsonSchema", schema="{}")


def _row(number: int, *turns: tuple[str, str]) -> Row:
    return Row(number, str(number), tuple({"role": role, "content": content} for role, content in turns))


def _held(number: int, prompt: str = "p", reference: str = "r", row_id: str | None = None) -> HoldoutRow:
    return HoldoutRow(number, row_id or str(number), ({"role": "user", "content": prompt},), reference)


def test_the_closing_assistant_turn_is_the_reference() -> None:
    row = split_reference(_row(1, ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")))
    assert [turn["content"] for turn in row.messages] == ["a", "b", "c"]
    assert row.reference == "d"


def test_a_row_that_ends_with_the_user_has_no_reference() -> None:
    assert split_reference(_row(1, ("user", "a"))).reference == ""


@pytest.mark.parametrize(
    ("prompt", "leaks"),
    [("What is X?", True), ("what  is x?", True), ("What is Y?", False)],
    ids=["the same", "case and blanks differ", "another"],
)
def test_leak_exact(prompt: str, leaks: bool) -> None:
    train = [_row(3, ("user", "What is X?"), ("assistant", "b"))]
    finding = leak_exact(train, [_held(9, prompt)])
    assert (finding is not None) == leaks
    if finding:
        assert finding.rows == (9,)
        assert "first row 9 (training row 3)" in finding.message


def test_a_prompt_inside_a_longer_training_conversation_leaks_too() -> None:
    train = [_row(1, ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]
    assert leak_exact(train, [_held(1, "a")]) is not None
    assert leak_exact(train, [_held(1, "c")]) is None


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


def test_ids_must_be_distinct() -> None:
    finding = duplicate_ids([_held(1, row_id="a"), _held(2, row_id="b"), _held(3, row_id="a")])
    assert finding is not None
    assert finding.rows == (3,)
    assert duplicate_ids([_held(1), _held(2)]) is None
