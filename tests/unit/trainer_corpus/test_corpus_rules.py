"""Rules that compare rows: planted defects are found, ordinary data is left alone."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.corpus import (
    answer_conflict_format,
    contradiction,
    exact_duplicate,
    leak_group,
    leak_near,
    near_duplicate,
)
from finetune_trainer.data.formats import Row
from finetune_trainer.data.similarity import jaccard, nearest, shingles, signatures, similar_pairs, template

WORDS = [
    *(
        "river",
        "stone",
        "garden",
        "window",
        "paper",
        "cloud",
        "engine",
        "market",
        "bridge",
        "silver",
        "winter",
    ),
    *("lesson", "doctor", "planet", "forest", "signal", "bottle", "candle", "mirror", "ladder", "harbor"),
    *("meadow", "copper", "velvet", "thunder", "pocket", "saddle", "orchard", "lantern", "quiet", "sudden"),
    *("narrow", "bitter", "gentle", "hollow", "rapid", "steady", "bright", "clever", "distant", "ancient"),
]


def sentence(chance: random.Random, words: int = 120) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def row(number: int, question: str, answer: str = "yes", group: str | None = None) -> Row:
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Row(number, str(number), messages, group=group)


def clean(count: int, instruction: str = "") -> list[Row]:
    chance = random.Random(5)
    return [row(n, instruction + sentence(chance), chance.choice(["yes", "no"])) for n in range(1, count + 1)]


def edited(text: str, chance: random.Random) -> str:
    """One word in a hundred replaced: a copy that a person mended."""
    words = text.split()
    for place in chance.sample(range(len(words)), max(1, len(words) // 100)):
        words[place] = chance.choice(WORDS)
    return " ".join(words)


INSTRUCTION = "Read the following text with care and answer with one word and nothing else please: " * 3


@pytest.mark.parametrize("instruction", ["", INSTRUCTION], ids=["free text", "one long instruction for all"])
def test_clean_rows_raise_nothing(instruction: str) -> None:
    rows = clean(300, instruction)
    assert exact_duplicate(rows) is None
    assert near_duplicate(rows) is None
    assert contradiction(rows) is None


@pytest.mark.parametrize("instruction", ["", INSTRUCTION], ids=["free text", "one long instruction for all"])
def test_edited_copies_are_found_and_nothing_else(instruction: str) -> None:
    chance, rows = random.Random(6), clean(300, instruction)
    copies = [
        row(1000 + n, instruction + edited(str(rows[n].messages[0]["content"])[len(instruction) :], chance), str(rows[n].messages[1]["content"]))
        for n in range(0, 40, 2)
    ]  # fmt: skip
    finding = near_duplicate([*rows, *copies])
    assert finding is not None
    assert finding.count == 40
    assert finding.severity == "warning"


def test_equal_rows_are_exact_duplicates_and_not_near_ones() -> None:
    rows = clean(50)
    copy = Row(
        99,
        "99",
        ({"role": "user", "content": str(rows[3].messages[0]["content"]).upper()}, rows[3].messages[1]),
    )
    finding = exact_duplicate([*rows, copy])
    assert finding is not None
    assert (finding.rows, finding.severity) == ((99,), "warning")
    assert "equal to row 4" in finding.message
    assert near_duplicate([*rows, copy]) is None


def test_more_than_a_fifth_of_copies_is_an_error() -> None:
    rows = clean(10)
    finding = exact_duplicate([*rows, *(Row(50 + n, "", rows[n].messages) for n in range(4))])
    assert finding is not None
    assert (finding.count, finding.severity) == (4, "error")


LONG_ONE, LONG_OTHER = sentence(random.Random(1), 40), sentence(random.Random(2), 40)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("approve", "reject", True),
        ("approve", "Approve ", False),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', False),
        ('{"a": 1}', '{"a": 2}', True),
        (LONG_ONE, LONG_ONE + " indeed", False),
        (LONG_ONE, " ".join(f"x{n}" for n in range(30)), True),
    ],
    ids=["other words", "other case", "JSON in another order", "another value", "a long one with a word more", "another long one"],
)  # fmt: skip
@pytest.mark.parametrize("similar", [False, True], ids=["equal input", "input with an edit"])
def test_one_input_must_not_have_two_answers(one: str, other: str, expected: bool, similar: bool) -> None:
    question = sentence(random.Random(9), 200)
    again = question + " indeed" if similar else question
    finding = contradiction([*clean(200), row(501, question, one), row(502, again, other)])
    assert (finding is not None) is expected
    if finding is not None:
        assert (finding.rows, finding.severity) == ((501, 502), "warning")


def test_more_than_two_percent_of_contradicting_rows_is_an_error() -> None:
    finding = contradiction([*clean(50), row(501, "same", "a"), row(502, "same", "b")])
    assert finding is not None
    assert finding.severity == "error"


@pytest.mark.parametrize(
    ("usual", "other", "expected"),
    [
        ('{"a": 1}', "prose", True),
        ('{"a": 1}', '{"b": 1}', True),
        ('{"a": 1}', '{"a": "else"}', False),
        ("prose", "more prose", False),
        ("prose", "[1, 2]", True),
        ("17", "prose", False),
    ],
    ids=["text among JSON", "other fields", "other values", "text among text", "a list among text", "a number is text"],
)  # fmt: skip
def test_answers_have_one_form(usual: str, other: str, expected: bool) -> None:
    rows = [row(n, f"question {n}", usual) for n in range(1, 10)]
    finding = answer_conflict_format([*rows, row(10, "question 10", other)])
    assert (finding is not None) is expected
    if finding is not None:
        assert (finding.rows, finding.severity) == ((10,), "warning")


def test_where_no_form_is_usual_none_is_wrong() -> None:
    assert answer_conflict_format([row(n, f"q {n}", "text" if n % 2 else "[1]") for n in range(20)]) is None


def prompts(*texts: str) -> list[tuple[int, Sequence[dict[str, str]]]]:
    return [(number, ({"role": "user", "content": text},)) for number, text in enumerate(texts, start=1)]


def test_an_edited_training_input_in_the_hold_out_is_a_leak() -> None:
    rows, chance = clean(200, INSTRUCTION), random.Random(3)
    question = str(rows[7].messages[0]["content"])
    certain, likely = leak_near(rows, prompts(question + " indeed", INSTRUCTION + sentence(chance)))
    assert certain is not None
    assert (certain.rows, certain.severity) == ((1,), "error")
    assert "training row 8" in certain.message
    assert likely is None


def test_half_of_a_training_input_is_a_likely_leak() -> None:
    rows, chance = clean(200), random.Random(3)
    words = str(rows[7].messages[0]["content"]).split()
    certain, likely = leak_near(rows, prompts(" ".join(words[:96] + sentence(chance, 12).split())))
    assert certain is None
    assert likely is not None
    assert likely.severity == "warning"


def test_a_short_prompt_is_never_more_than_a_likely_leak() -> None:
    rows = [row(n, f"what is the capital of country {n}") for n in range(1, 11)]
    certain, likely = leak_near(rows, prompts("what is the capital of country 12"))
    assert certain is None
    assert likely is not None


def test_another_number_is_another_question() -> None:
    question = sentence(random.Random(9), 200)
    rows = [*clean(200), row(501, f"{question} 17", "yes"), row(502, f"{question} 18", "no")]
    assert contradiction(rows) is None


def test_an_equal_prompt_is_left_to_the_exact_rule() -> None:
    rows = clean(100)
    assert leak_near(rows, prompts(str(rows[0].messages[0]["content"]))) == [None, None]


def test_a_group_on_both_sides_is_an_error() -> None:
    rows = [row(1, "a", group="g1"), row(2, "b")]
    finding = leak_group(rows, [(5, "g1"), (6, "g2"), (7, None)])
    assert finding is not None
    assert finding.rows == (5,)
    assert leak_group(rows, [(6, "g2"), (7, None)]) is None


TEXTS = st.lists(st.sampled_from(WORDS), min_size=0, max_size=60).map(" ".join)


@given(TEXTS, TEXTS)
def test_an_estimate_is_near_the_exact_similarity(one: str, other: str) -> None:
    sets = [shingles(one), shingles(other)]
    signed = signatures(sets)
    if all(map(len, sets)):
        assert abs(float(np.mean(signed[0] == signed[1])) - jaccard(*sets)) < 0.25


@given(TEXTS)
def test_a_text_is_wholly_like_itself_whatever_its_case(text: str) -> None:
    assert jaccard(shingles(text), shingles(text.upper())) == (1 if text else 0)


@given(st.lists(TEXTS, max_size=12))
def test_pairs_are_reported_once_in_order_and_with_their_true_similarity(texts: list[str]) -> None:
    sets = [shingles(text) for text in texts]
    pairs = list(similar_pairs(sets, 0.7))
    assert len({(one, other) for one, other, _ in pairs}) == len(pairs)
    assert all(
        one < other and similarity == jaccard(sets[one], sets[other]) >= 0.7
        for one, other, similarity in pairs
    )


def test_the_nearest_is_the_most_similar() -> None:
    chance = random.Random(4)
    known = [sentence(chance) for _ in range(50)]
    asked = [edited(known[20], chance), sentence(chance)]
    found, nothing = nearest([shingles(t) for t in asked], [shingles(t) for t in known], 0.6)
    assert found is not None
    assert found[0] == 20
    assert nothing is None


def test_a_thousand_rows_of_one_text_are_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.data import similarity

    counted: list[int] = []
    exact: Callable[..., float] = similarity.jaccard
    monkeypatch.setattr(similarity, "jaccard", lambda one, other: counted.append(1) or exact(one, other))
    assert list(similar_pairs([shingles(LONG_ONE)] * 1000, 0.8))
    assert len(counted) < 2100


def test_only_what_many_rows_share_is_the_template() -> None:
    rows = [shingles(INSTRUCTION + sentence(random.Random(n))) for n in range(100)]
    instruction = set(shingles(INSTRUCTION))
    assert instruction <= set(template(rows))
    assert len(template(rows)) < len(instruction) + 10  # some ways into the text recur too
    assert not len(template(rows[:20]))
