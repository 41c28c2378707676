"""Rules about the hold-out against the training rows."""

from dataclasses import replace

import pytest

from finetune_trainer.data.corpus import leaks
from finetune_trainer.data.corpus.facts import Facts, learn, measure
from finetune_trainer.data.corpus.texts import held_out
from finetune_trainer.data.findings import Finding
from finetune_trainer.data.formats import Row
from finetune_trainer.data.holdout import HoldoutRow
from tests.defects import Example, row_of

TEXT = (
    "the first week was hard because of the headaches and the nausea but after that my mood became stable and my "
    "family noticed that i laughed again so i would take it once more without thinking twice about the side effects"
)
PASSAGE = "take one tablet after breakfast with plenty of water and never lie down within an hour"


def _held(number: int, prompt: str, reference: str = "r", group: str | None = None) -> HoldoutRow:
    return HoldoutRow(number, str(number), ({"role": "user", "content": prompt},), reference, group)


def _train(*pairs: tuple[str, str]) -> list[Row]:
    return [row_of(number, Example(*pair)) for number, pair in enumerate(pairs, start=1)]


def _measured(train: list[Row], holdout: list[HoldoutRow]) -> tuple[Facts, Facts]:
    context = learn(train, holdout)
    return measure(train, context), measure([held_out(row) for row in holdout], context)


def _near(train: list[Row], holdout: list[HoldoutRow]) -> list[Finding]:
    context = learn(train, holdout)
    facts = _measured(train, holdout)
    found = leaks.leak_near(facts[0], train.__getitem__, holdout, facts[1], context)
    return [finding for finding in found if finding]


@pytest.mark.parametrize(
    ("prompt", "leaks_out"),
    [("What is X?", True), ("what  is x?", True), ("What is Y?", False)],
    ids=["the same", "case and blanks differ", "another"],
)
def test_leak_exact(prompt: str, leaks_out: bool) -> None:
    finding = leaks.leak_exact(*_measured(_train(("other", "a"), ("What is X?", "b")), [_held(9, prompt)]))
    assert (finding is not None) == leaks_out
    if finding:
        assert finding.rows == (9,)
        assert "first row 9 (training row 2)" in finding.message


def test_a_prompt_inside_a_longer_training_conversation_leaks_too() -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    train = [Row(1, "1", tuple({"role": role, "content": content} for role, content in turns))]
    assert leaks.leak_exact(*_measured(train, [_held(1, "a")])) is not None
    assert leaks.leak_exact(*_measured(train, [_held(1, "c")])) is None


@pytest.mark.parametrize(
    ("prompt", "severity"),
    [
        (TEXT.replace("hard", "difficult"), "error"),
        (TEXT.replace(" family noticed that i laughed again so", ""), "error"),
        (" ".join(TEXT.split()[:28]), "warning"),
        (TEXT, None),
        (f"{TEXT} after 3 weeks", None),
        ("what is the capital of norway", None),
        ("which city is the capital of spain?", "error"),
        ("in which city is the capital of spain", "warning"),
    ],
    ids=["a synonym", "a clause left out", "two thirds of it", "exact leaks are rule 36's", "another number",
         "another question", "punctuation of a short question", "a word more in a short question"],
)  # fmt: skip
def test_leak_near(prompt: str, severity: str | None) -> None:
    train = _train((TEXT, "a"), ("which city is the capital of spain", "madrid"))
    found = _near(train, [_held(9, prompt)])
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    if found:
        assert found[0].rows == (9,)
        assert "hold-out row 9 is " in found[0].message


def test_the_message_names_the_closest_training_row() -> None:
    train = _train(
        (TEXT.replace("week", "month").replace("hard", "bad"), "a"), (TEXT.replace("week", "day"), "b")
    )
    (finding,) = _near(train, [_held(9, TEXT)])
    assert "like training row 2" in finding.message


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f"As I said, {PASSAGE}, that is all.", True),
        (" ".join(PASSAGE.split()[:13]), True),
        (" ".join(PASSAGE.split()[:12]), False),
    ],
    ids=["inside a longer answer", "13 words", "12 words"],
)
def test_leak_ngram(answer: str, found: bool) -> None:
    train, holdout = _train(("q", "a"), ("p", answer)), [_held(7, "x", PASSAGE)]
    finding = leaks.leak_ngram(_measured(train, holdout)[0], holdout)
    assert (finding is not None) == found
    if finding:
        assert finding.rows == (7,)
        assert "row 7 with training row 2" in finding.message


def test_a_text_that_many_rows_share_is_no_leak() -> None:
    train = _train(*((f"q {i}", f"{i} {PASSAGE}" if i < 6 else f"answer {i}") for i in range(100)))
    holdout = [_held(7, "x", PASSAGE)]
    assert leaks.leak_ngram(_measured(train, holdout)[0], holdout) is None


@pytest.mark.parametrize(("group", "found"), [("document 1", True), ("document 2", False), (None, False)])
def test_leak_group(group: str | None, found: bool) -> None:
    train = [
        replace(row, group=name)
        for row, name in zip(_train(("a", "b"), ("c", "d")), (None, "document 1"), strict=True)
    ]
    finding = leaks.leak_group(*_measured(train, [_held(4, "x", group=group)]))
    assert (finding is not None) == found
    if finding:
        assert "row 4 and training row 2" in finding.message
