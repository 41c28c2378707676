"""Exact similarity of a pair of rows on their texts, after the signatures have named the pair."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.corpus.minhash import Pairs
from finetune_trainer.data.corpus.texts import Texts
from finetune_trainer.data.corpus.words import SHORT, Hashes, Indices, read_words, shingles, strip
from finetune_trainer.data.formats import Row

# Pairs beyond these are judged by their estimate: a data set in which more rows are alike is refused anyway,
# and reading its texts again would take longer than all other checks.
VERIFIED_PAIRS = 20_000
_BATCH = 500
_NUMBER = re.compile(r"\d+")
_SLIP = 0.8
SOME = 0.4  # of the shingles agree: enough to ask the words
Reader = Callable[[Row], str]
Values = NDArray[np.float64]
Measure = Callable[[Sequence[str], Sequence[str], Hashes], Values]


def jaccard(left: Sequence[str], right: Sequence[str], templates: Hashes) -> Values:
    """The Jaccard similarity of the shingle sets of texts of equal place, templates left out; 0 if empty."""
    words, _ = strip(read_words([*left, *right]), templates)
    grams = shingles(words)
    return _overlaps(grams.hashes, grams.owner, len(left))


def likeness(left: Sequence[str], right: Sequence[str], templates: Hashes) -> Values:
    """How alike texts are: by their shingles, or by their words once 0.4 of the shingles agree.

    One changed word changes five shingles, so shingles alone call a text of 60 words with two slips another
    text (0.72). Words count only for texts of 20 words of their own or more that name the same numbers.
    """
    words, _ = strip(read_words([*left, *right]), templates)
    grams = shingles(words)
    by_shingles = _overlaps(grams.hashes, grams.owner, len(left))
    by_words = _overlaps(words.hashes, words.owner, len(left))
    is_long = words.per_text() >= SHORT
    numbers = np.array([same_numbers(*pair) for pair in zip(left, right, strict=True)], dtype=np.bool_)
    trusted = (by_shingles >= SOME) & is_long[: len(left)] & is_long[len(left) :] & numbers
    return np.where(trusted, np.maximum(by_shingles, by_words), by_shingles)


def similarities(
    pairs: Pairs, left: Texts, right: Texts, read: Reader, templates: Hashes, measure: Measure = likeness
) -> Values:
    """The exact similarity of each pair (place in left, place in right): [pairs]."""
    done = [np.zeros(0)]
    for start in range(0, len(pairs), _BATCH):
        part = pairs[start : start + _BATCH].tolist()
        texts = [read(left(i)) for i, _ in part], [read(right(j)) for _, j in part]
        done.append(measure(*texts, templates))
    return np.concatenate(done)


def same_numbers(left: str, right: str) -> bool:
    """Whether two texts name the same numbers: a task with other numbers is another task."""
    return sorted(_NUMBER.findall(left)) == sorted(_NUMBER.findall(right))


def same_but_for_slips(left: str, right: str) -> bool:
    """Whether two texts have the same words, in any order, but for misspellings.

    A word with a prefix (`legal`, `illegal`) is another word, not a slip.
    """
    mine, theirs = Counter(left.split()), Counter(right.split())
    only, others = list((mine - theirs).elements()), list((theirs - mine).elements())
    return len(only) == len(others) and all(any(_is_slip(word, other) for other in others) for word in only)


def _is_slip(word: str, other: str) -> bool:
    if word.endswith(other) or other.endswith(word):
        return False
    return SequenceMatcher(None, word, other, autojunk=False).ratio() >= _SLIP


def word_jaccard(left: str, right: str) -> float:
    """The Jaccard similarity of two texts as sets of words; 1 if neither has any."""
    mine, theirs = (set(re.findall(r"\w+", text)) for text in (left, right))
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0


def _overlaps(hashes: Hashes, owner: Indices, count: int) -> Values:
    """The Jaccard similarity of the hashes of text i and of text count + i, for i < count."""
    bounds = np.searchsorted(owner, np.arange(2 * count + 1))
    sets = [np.unique(hashes[start:end]) for start, end in pairwise(bounds)]
    return np.array([_overlap(sets[i], sets[count + i]) for i in range(count)])


def _overlap(left: Hashes, right: Hashes) -> float:
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared) if shared else 0.0
