"""Exact similarity of a pair of rows on their texts, after the signatures have named the pair."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.corpus.minhash import Pairs
from finetune_trainer.data.corpus.texts import Texts
from finetune_trainer.data.corpus.words import Hashes, read_words, shingles, strip
from finetune_trainer.data.formats import Row

# Pairs beyond these are judged by their estimate: a data set in which more rows are alike is refused anyway,
# and reading its texts again would take longer than all other checks.
VERIFIED_PAIRS = 20_000
_BATCH = 500
_NUMBER = re.compile(r"\d+")
Reader = Callable[[Row], str]


def jaccard(left: Sequence[str], right: Sequence[str], templates: Hashes) -> NDArray[np.float64]:
    """The Jaccard similarity of the shingle sets of texts of equal place, templates left out; 0 if empty."""
    words, _ = strip(read_words([*left, *right]), templates)
    grams = shingles(words)
    bounds = np.searchsorted(grams.owner, np.arange(len(left) + len(right) + 1))
    sets = [np.unique(grams.hashes[start:end]) for start, end in pairwise(bounds)]
    return np.array([_overlap(a, b) for a, b in zip(sets, sets[len(left) :], strict=False)])


def similarities(
    pairs: Pairs, left: Texts, right: Texts, read: Reader, templates: Hashes
) -> NDArray[np.float64]:
    """The exact similarity of each pair (place in left, place in right): [pairs]."""
    done = [np.zeros(0)]
    for start in range(0, len(pairs), _BATCH):
        part = pairs[start : start + _BATCH].tolist()
        texts = [read(left(i)) for i, _ in part], [read(right(j)) for _, j in part]
        done.append(jaccard(*texts, templates))
    return np.concatenate(done)


def same_numbers(left: str, right: str) -> bool:
    """Whether two texts name the same numbers: a task with other numbers is another task."""
    return sorted(_NUMBER.findall(left)) == sorted(_NUMBER.findall(right))


def word_jaccard(left: str, right: str) -> float:
    """The Jaccard similarity of two texts as sets of words; 1 if neither has any."""
    mine, theirs = (set(re.findall(r"\w+", text)) for text in (left, right))
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0


def _overlap(left: Hashes, right: Hashes) -> float:
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared) if shared else 0.0
