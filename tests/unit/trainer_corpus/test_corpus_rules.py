"""Rules about the training rows as a whole."""

import json
from dataclasses import replace
from random import Random

import pytest

from finetune_trainer.data.corpus.contradictions import answer_conflict_format, contradiction
from finetune_trainer.data.corpus.duplicates import alike, exact_duplicate, near_duplicate
from finetune_trainer.data.corpus.facts import Facts, learn, measure
from finetune_trainer.data.corpus.size import advised_epochs, data_band, epochs_bound, too_few
from finetune_trainer.data.corpus.variety import distribution_shift, low_variety
from finetune_trainer.data.findings import Finding
from finetune_trainer.data.formats import Row
from tests import defects
from tests.defects import Example, row_of

LONG = "the patient took the medicine for three weeks and felt dizzy every morning but slept far better at night again"


def _rows(*pairs: tuple[str, str]) -> list[Row]:
    return [row_of(number, Example(*pair)) for number, pair in enumerate(pairs, start=1)]


def _distinct(count: int) -> list[Row]:
    return _rows(*((f"question number {i}", f"answer {i}") for i in range(count)))


def _facts(rows: list[Row]) -> Facts:
    return measure(rows, learn(rows, []))


def _contradiction(rows: list[Row]) -> Finding | None:
    return contradiction(_facts(rows), rows.__getitem__, learn(rows, []))


@pytest.mark.parametrize(
    ("count", "severity"), [(99, "error"), (100, "warning"), (299, "warning"), (300, None)]
)
def test_too_few(count: int, severity: str | None) -> None:
    finding = too_few(_facts(_distinct(count)))
    assert (finding.severity if finding else None) == severity


def test_copies_do_not_make_a_data_set_larger() -> None:
    finding = too_few(_facts(_rows(*[("same", "answer")] * 400)))
    assert finding is not None
    assert finding.count == 1


@pytest.mark.parametrize(
    ("count", "words"), [(999, "visible change"), (1000, "solid result"), (10_000, "diminish")]
)
def test_data_band(count: int, words: str) -> None:
    finding = data_band(_facts(_rows(*[("a", "b")] * count)))
    assert finding.severity == "info"
    assert words in finding.message


@pytest.mark.parametrize(
    ("rows", "epochs"), [(3, 25), (10, 10), (34, 3), (1000, 3), (10_000, 2), (30_000, 1)]
)
def test_advised_epochs(rows: int, epochs: int) -> None:
    assert advised_epochs(rows) == epochs


@pytest.mark.parametrize(("epochs", "warns"), [(1, False), (5, False), (5.5, True), (20, True)])
def test_epochs_bound(epochs: float, warns: bool) -> None:
    finding = epochs_bound(_facts(_distinct(200)), epochs)
    assert (finding is not None) == warns
    if finding:
        assert f"{epochs:g} epochs on 200 rows" in finding.message


@pytest.mark.parametrize(("copies", "severity"), [(0, None), (1, "warning"), (4, "warning"), (6, "error")])
def test_exact_duplicate(copies: int, severity: str | None) -> None:
    rows = _rows(
        *((f"Question {i}", "a") for i in range(20)), *((f" question\n{i}", "A") for i in range(copies))
    )
    finding = exact_duplicate(_facts(rows))
    assert (finding.severity if finding else None) == severity
    if finding:
        assert finding.rows == tuple(range(21, 21 + copies))
        assert "row 21 is row 1" in finding.message


def test_rows_that_differ_in_their_system_prompt_are_no_copies() -> None:
    row = _rows(("a", "b"))[0]
    other = replace(row, number=2, messages=({"role": "system", "content": "s"}, *row.messages))
    assert exact_duplicate(_facts([row, other])) is None


@pytest.mark.parametrize(
    ("second", "found"),
    [
        (LONG.replace("dizzy", "dizy"), True),
        (f"{LONG.title()}!", True),
        (LONG.upper(), False),
        ("a review of another medicine that says something else about its effects on the stomach and the head", False),
    ],
    ids=["a typo", "case and punctuation", "an exact copy is another rule's", "another text"],
)  # fmt: skip
def test_near_duplicate(second: str, found: bool) -> None:
    rows = _rows((LONG, "good"), (second, "good"), ("unrelated", "words"))
    facts = _facts(rows)
    finding = near_duplicate(facts, alike(facts, rows.__getitem__, learn(rows, [])))
    assert (finding is not None) == found
    if finding:
        assert finding.rows == (1, 2)
        assert "2 rows are near-duplicates in 1 group:" in finding.message


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (("Approve?", "approve"), ("approve?", "reject"), True),
        (("Approve?", "approve"), ("approve?", "Approve."), False),
        (("Approve?", '{"a": 1, "b": 2}'), ("approve?", '{"b": 2,  "a": 1}'), False),
        (("Approve?", '{"a": 1}'), ("approve?", '{"a": 2}'), True),
        (("Approve?", LONG), ("approve?", f"{LONG} and by day"), False),
        (("Approve?", LONG), ("approve?", " ".join(f"w{c}" for c in "abcdefghijklmnopqrstuv")), True),
        ((f"{LONG} dear friends", "yes"), (f"{LONG.title()}, dear friends!", "no"), True),
        ((f"{LONG} in dose 5", "yes"), (f"{LONG} in dose 6", "no"), False),
        (("Is 12 + 35 even?", "no"), ("Is 12 * 35 even?", "yes"), False),
        (("Translate to French: the cat", "le chat"), ("Translate to French: the car", "la voiture"), False),
    ],
    ids=["labels differ", "punctuation of the answer", "layout of JSON", "values of JSON", "long answers that agree",
         "long answers that differ", "punctuation of the input", "another number", "another sign", "another word"],
)  # fmt: skip
def test_contradiction(first: tuple[str, str], second: tuple[str, str], found: bool) -> None:
    finding = _contradiction(_rows(("unrelated", "words"), first, second))
    assert (finding is not None) == found
    if finding:
        assert finding.rows == (2, 3)
        assert "rows 2, 3: " in finding.message


def test_a_contradiction_quotes_the_answers_and_is_an_error_above_two_percent() -> None:
    few = _contradiction(
        [*_distinct(98), row_of(99, Example("x", "approve")), row_of(100, Example("x", "reject"))]
    )
    many = _contradiction([*_distinct(97), *(row_of(98 + i, Example("x", f"{i}")) for i in range(3))])
    assert few is not None
    assert many is not None
    assert 'rows 99, 100: the same input, answers "approve" / "reject"; keep one' in few.message
    assert (few.severity, many.severity) == ("warning", "error")


def test_one_input_under_two_system_prompts_may_have_two_answers() -> None:
    rows = _rows((LONG, "yes"), (LONG, "no"))
    system = {"role": "system", "content": "answer in the negative"}
    assert _contradiction([rows[0], replace(rows[1], messages=(system, *rows[1].messages))]) is None


@pytest.mark.parametrize(
    ("answers", "wrong", "words"),
    [
        (['{"a": 1}'] * 9 + ["prose"], (10,), "are not JSON"),
        (["prose"] * 9 + ['{"a": 1}'], (10,), "are JSON"),
        (['{"a": 1}'] * 9 + ['{"b": 1}'], (10,), "other keys"),
        (['{"a": 1}'] * 9 + ["[1]"], (10,), "other keys or another JSON type"),
        (['{"a": 1}'] * 10, None, ""),
        (["prose"] * 9 + ["5"], None, ""),
        (["prose"] * 40 + ["[1]"], None, ""),
    ],
    ids=["prose among JSON", "JSON among prose", "other keys", "an array", "all alike", "a number is prose",
         "a rare list among prose"],
)  # fmt: skip
def test_answer_conflict_format(answers: list[str], wrong: tuple[int, ...] | None, words: str) -> None:
    rows = _rows(*((f"q {i}", answer) for i, answer in enumerate(answers)))
    finding = answer_conflict_format(_facts(rows))
    assert (finding.rows if finding else None) == wrong
    if finding:
        assert words in finding.message


def _low_variety(rows: list[Row]) -> Finding | None:
    return low_variety(_facts(rows), rows.__getitem__, learn(rows, []))


def test_one_form_with_short_gaps_is_low_variety() -> None:
    form = "Write a poem about {} in the style of {}"
    rows = _rows(*((form.format(f"topic{i}", f"author{i % 7}"), "poem") for i in range(200)))
    finding = _low_variety(rows)
    assert finding is not None
    assert (
        '100% of the inputs fill one form ("write a poem about ... in the style of ...")' in finding.message
    )


def test_few_phrases_over_and_over_are_low_variety() -> None:
    random = Random(1)
    phrases = ["the delivery came too late", "my parcel was broken again", "nobody answers your phone number"]
    rows = _rows(*((" and ".join(random.choices(phrases, k=6)), str(i)) for i in range(200)))
    rows += [replace(row, number=row.number + 200) for row in _distinct(40)]
    finding = low_variety(measure(rows, learn([], [])), rows.__getitem__, learn([], []))
    assert finding is not None
    assert "are distinct" in finding.message


@pytest.mark.parametrize("source", defects.SOURCES)
def test_an_instruction_before_every_input_is_normal(source: str) -> None:
    rows = defects.data_set(defects.SOURCES[source](), 300, 100, Random(1)).train
    asked = [row_of(row.number, replace(defects.example_of(row), prompt=f"Read this text and classify it as one "
             f"of spam or ham. {defects.example_of(row).prompt}")) for row in rows]  # fmt: skip
    assert _low_variety(asked) is None


@pytest.mark.parametrize("source", defects.SOURCES)
def test_two_parts_of_one_source_have_one_distribution(source: str) -> None:
    data = defects.data_set(defects.SOURCES[source](), 300, 100, Random(2))
    rows = [row_of(row.number, Example(row.messages[0]["content"], row.reference)) for row in data.holdout]
    context = learn(data.train, data.holdout)
    assert distribution_shift(measure(data.train, context), measure(rows, context)) is None


def test_another_source_and_other_lengths_are_a_shift() -> None:
    train = [row_of(i, example) for i, example in enumerate(defects.reviews()[:300], start=1)]
    held = [row_of(i, example) for i, example in enumerate(defects.short_questions()[:100], start=1)]
    context = learn(train, [])
    finding = distribution_shift(measure(train, context), measure(held, context))
    assert finding is not None
    for words in ("Training inputs have", "training answers have", "the words differ"):
        assert words in finding.message


def test_findings_are_json() -> None:
    finding = _contradiction(_rows(("x", "a"), ("x", "b")))
    assert finding is not None
    assert json.loads(json.dumps(finding.to_json()))["rows"] == [1, 2]
