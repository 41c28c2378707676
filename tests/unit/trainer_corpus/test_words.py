"""Words, shingles and templates of many texts at once."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.corpus.compare import jaccard, likeness, same_but_for_slips, same_numbers
from finetune_trainer.data.corpus.minhash import estimates, signatures
from finetune_trainer.data.corpus.words import ngrams, read_words, shingles, strip
from finetune_trainer.grading.values import normalise

NONE = np.zeros(0, dtype=np.uint64)
WORDS = st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"])
LONG = st.lists(WORDS, min_size=20, max_size=60).map(" ".join)
TEXTS = st.lists(st.text(max_size=40).map(normalise), max_size=6)


@given(TEXTS)
def test_a_word_has_one_hash_wherever_it_stands(texts: list[str]) -> None:
    words = read_words(texts)
    seen: dict[str, int] = {}
    points = "\n".join(texts) + "\n"
    for value, begin, end in zip(
        words.hashes.tolist(), words.begin.tolist(), words.end.tolist(), strict=True
    ):
        assert seen.setdefault(points[begin:end], value) == value
    assert len(set(seen.values())) == len(seen)


@given(TEXTS)
def test_words_of_all_texts_are_those_of_each(texts: list[str]) -> None:
    together = read_words(texts)
    for place, text in enumerate(texts):
        alone = read_words([text])
        assert together.hashes[together.owner == place].tolist() == alone.hashes.tolist()
        mine = shingles(together)
        assert mine.hashes[mine.owner == place].tolist() == shingles(alone).hashes.tolist()


@given(LONG, LONG)
def test_jaccard_is_that_of_the_sets_of_five_words(left: str, right: str) -> None:
    def sets(text: str) -> set[str]:
        words = text.split()
        return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}

    expected = len(sets(left) & sets(right)) / len(sets(left) | sets(right))
    assert np.isclose(jaccard([left], [right], NONE)[0], expected)


@given(st.text("abcdefgh ", min_size=30, max_size=60).map(normalise))
def test_short_texts_are_compared_by_five_characters(text: str) -> None:
    letters = " ".join(re.findall(r"\w+", text)) + " "
    expected = {letters[i : i + 5] for i in range(len(letters) - 4)}
    if len(text.split()) < 20:
        assert len(np.unique(shingles(read_words([text])).hashes)) == len(expected)


@given(LONG, LONG)
def test_signatures_estimate_jaccard(left: str, right: str) -> None:
    made = signatures(shingles(read_words([left, right])), 2)
    exact = jaccard([left], [right], NONE)[0]
    guess = estimates(made, made, np.array([[0, 1]]))[0]
    assert abs(guess - exact) <= 5 * np.sqrt(0.25 / 128)  # five standard errors


def test_signatures_are_unbiased() -> None:
    random = np.random.default_rng(3)
    errors = []
    for _ in range(200):
        words = [f"w{i}" for i in random.integers(0, 1 << 30, size=100)]
        other = [
            *words[: int(random.integers(50, 100))],
            *(f"x{i}" for i in random.integers(0, 1 << 30, size=20)),
        ]
        pair = " ".join(words), " ".join(other)
        made = signatures(shingles(read_words(pair)), 2)
        errors.append(estimates(made, made, np.array([[0, 1]]))[0] - jaccard(pair[:1], pair[1:], NONE)[0])
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.06


def test_words_inside_a_template_are_left_out_and_a_text_of_template_only_is_kept() -> None:
    instruction = "answer this with one word please"
    template = np.sort(ngrams(read_words([instruction]), 5)[0][:2])
    words, covered = strip(read_words([f"{instruction} cat", instruction]), template)
    assert words.per_text().tolist() == [1, 6]
    assert covered.tolist() == [True] * 6 + [False] + [True] * 6


def test_a_shared_instruction_does_not_make_inputs_alike() -> None:
    instruction = " ".join(f"word{i}" for i in range(100))
    template = np.sort(ngrams(read_words([instruction]), 5)[0][:96])
    pair = [f"{instruction} the cat sat"], [f"{instruction} a dog runs away"]
    assert jaccard(*pair, NONE)[0] > 0.9
    assert jaccard(*pair, template)[0] < 0.1


def test_words_are_asked_once_some_shingles_agree() -> None:
    text = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyzabcdefghijklmn"]
    slips = [*text[:10], "other", *text[11:30], "else", *text[31:]]
    pair = [" ".join(text)], [" ".join(slips)]
    assert jaccard(*pair, NONE)[0] < 0.75
    assert likeness(*pair, NONE)[0] > 0.85
    assert likeness([f"{pair[0][0]} 12"], [f"{pair[1][0]} 13"], NONE)[0] < 0.75


def test_what_makes_two_texts_the_same_task() -> None:
    assert same_numbers("add 2 and 30", "add 30 and 2")
    assert not same_numbers("add 2 and 30", "add 2 and 31")
    assert same_but_for_slips("the medicine works well", "works the mediicne well")
    assert not same_but_for_slips("that is legal here", "that is illegal here")
    assert not same_but_for_slips("it works", "it works well")
    assert not same_but_for_slips("prices will increase", "prices will decrease")


def test_signs_tell_code_and_sums_apart() -> None:
    assert jaccard(["what is 12 + 35 today"], ["what is 12 * 35 today"], NONE)[0] < 1
    assert jaccard(["well-known, isn't it?"], ["Well known; isn't it!".lower()], NONE)[0] == 1
