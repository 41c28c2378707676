"""Words and shingles of many texts at once, as 64-bit hashes in numpy arrays.

A Python loop over the words of 100,000 rows takes longer than everything else that is checked, so all
texts of a chunk are one array of code points: array operations find words, hash them and combine them.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

SHINGLE = 5  # words, or characters of a text that is short (data rule 32)
SHORT = 20  # words
# Signs that carry meaning in code and arithmetic: `a < b` is not `a > b`.
_SIGNS = "_+*/<>=%^|&~"
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BLANK = 32


@dataclass(frozen=True)
class Words:
    """The words of `count` texts in their order: [w] hash, text (from 0), first and last code point + 1."""

    count: int
    points: NDArray[np.uint32]
    hashes: Hashes
    owner: Indices
    begin: Indices
    end: Indices

    def where(self, chosen: Mask) -> "Words":
        """Only the chosen words ([w]); what is left moves together."""
        rest = self.hashes[chosen], self.owner[chosen], self.begin[chosen], self.end[chosen]
        return Words(self.count, self.points, *rest)

    def per_text(self) -> Indices:
        """How many words each text has: [count]."""
        return np.bincount(self.owner, minlength=self.count).astype(np.int64)


@dataclass(frozen=True)
class Grams:
    """Hashes of n-grams with the text that each is from ([g], in the order of the texts)."""

    hashes: Hashes
    owner: Indices


def read_words(texts: Sequence[str]) -> Words:
    """Split normalised texts (no line breaks) into words: letters, digits, marks and a few signs."""
    joined = "\n".join(texts) + "\n"
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    inside = _word_points()[np.minimum(points, 0xFFFF)]
    before = np.concatenate(([False], inside[:-1]))
    begin, end = np.flatnonzero(inside & ~before), np.flatnonzero(before & ~inside)
    breaks = np.flatnonzero(points == ord("\n"))
    owner = np.searchsorted(breaks, begin)
    return Words(len(texts), points, _hash_runs(points[inside], end - begin), owner, begin, end)


def ngrams(words: Words, size: int) -> tuple[Hashes, Mask]:
    """The n-gram that starts at each word ([w]) and whether it ends in the same text."""
    return _combine(words.hashes, words.owner, size)


def strip(words: Words, templates: Hashes) -> tuple[Words, Mask]:
    """Without the words inside template 5-grams (sorted hashes); texts that are all template are kept whole.

    Also returns which words ([w]) are template.
    """
    covered = np.zeros(len(words.hashes), dtype=np.bool_)
    if templates.size:
        hashes, whole = ngrams(words, SHINGLE)
        starts = np.flatnonzero(whole & member(hashes, templates))
        for step in range(SHINGLE):
            covered[starts + step] = True
    emptied = np.bincount(words.owner[~covered], minlength=words.count) == 0
    return words.where(~covered | emptied[words.owner]), covered


def shingles(words: Words) -> Grams:
    """Word 5-grams of each text, character 5-grams of texts under 20 words."""
    short = words.per_text() < SHORT
    long_words = words.where(~short[words.owner])
    hashes, whole = ngrams(long_words, SHINGLE)
    points, owner = _characters(words.where(short[words.owner]))
    letters, complete = _combine(points, owner, SHINGLE)
    all_hashes = np.concatenate((hashes[whole], letters[complete]))
    all_owners = np.concatenate((long_words.owner[whole], owner[complete]))
    order = np.argsort(all_owners, kind="stable")
    return Grams(all_hashes[order], all_owners[order])


def member(values: Hashes, known: Hashes) -> Mask:
    """Which values are among the known ones, which are sorted."""
    if not known.size:
        return np.zeros(len(values), dtype=np.bool_)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[place] == values)


def mix(values: Hashes) -> Hashes:
    """Spread every bit over all others (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _combine(values: Hashes, owner: Indices, size: int) -> tuple[Hashes, Mask]:
    length = len(values)
    if length < size:
        return np.zeros(length, dtype=np.uint64), np.zeros(length, dtype=np.bool_)
    last = length - size + 1
    combined = np.zeros(length, dtype=np.uint64)
    for step in range(size):
        combined[:last] = combined[:last] * _BASE + values[step : last + step]
    whole = np.zeros(length, dtype=np.bool_)
    whole[:last] = owner[:last] == owner[size - 1 :]
    return mix(combined), whole


def _hash_runs(points: NDArray[np.uint32], lengths: Indices) -> Hashes:
    """The polynomial hash of each run of code points."""
    if not lengths.size:
        return np.zeros(0, dtype=np.uint64)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    places = np.arange(len(points)) - np.repeat(starts, lengths)
    powers = np.full(int(lengths.max()), _BASE, dtype=np.uint64)
    powers = np.multiply.accumulate(powers)
    return mix(np.add.reduceat((points + np.uint64(1)) * powers[places], starts))


def _characters(words: Words) -> tuple[Hashes, Indices]:
    """The code points of the words, each word with one blank after it, and the texts they are from."""
    lengths = words.end - words.begin + 1
    if not lengths.size:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    places = np.arange(int(lengths.sum())) - np.repeat(starts - words.begin, lengths)
    points = words.points[places].astype(np.uint64)
    points[starts + lengths - 1] = _BLANK
    return points, np.repeat(words.owner, lengths)


@cache
def _word_points() -> Mask:
    """Which code points are part of words; all beyond the basic plane count as such."""
    table = [unicodedata.category(chr(point))[0] in "LNM" for point in range(0x10000)]
    for sign in _SIGNS:
        table[ord(sign)] = True
    return np.array(table, dtype=np.bool_)
