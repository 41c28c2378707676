"""MinHash signatures and the pairs of rows that are worth comparing.

Own numpy code instead of datasketch: that hashes and bands row by row in Python objects, about a millisecond
and kilobytes for each row; here a chunk is one array operation per permutation, and banding is a sort.
Broder 1997 (resemblance), Leskovec et al., Mining of Massive Datasets, chapter 3 (banding).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.corpus.words import Grams, Hashes, Indices, mix

Signatures = NDArray[np.uint32]  # [rows, PERMUTATIONS]
Pairs = NDArray[np.int64]  # [pairs, 2]

PERMUTATIONS = 128
EMPTY = np.uint32(0xFFFFFFFF)  # in every place of a row without shingles
# Inside one bucket a row is compared with so many before it and with the first, so that a template with
# 50,000 rows costs a multiple of its rows, not their square.
_NEIGHBOURS = 4
_BUCKET = 64
_BLOCK = 1 << 14

_random = np.random.Generator(np.random.PCG64(20240229))
_FACTORS = _random.integers(1 << 31, size=PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
_ADDENDS = _random.integers(1 << 32, size=PERMUTATIONS, dtype=np.uint32)


def signatures(grams: Grams, count: int) -> Signatures:
    """The MinHash signature of each of `count` texts; x -> ax + b with odd a permutes 32-bit hashes."""
    result = np.full((PERMUTATIONS, count), EMPTY, dtype=np.uint32)
    if grams.hashes.size:
        starts = np.flatnonzero(np.diff(grams.owner, prepend=-1))
        present = grams.owner[starts]
        values = (grams.hashes >> np.uint64(32)).astype(np.uint32)
        for place, (factor, addend) in enumerate(zip(_FACTORS, _ADDENDS, strict=True)):
            result[place, present] = np.minimum.reduceat(values * factor + addend, starts)
    return np.ascontiguousarray(result.T)


def estimates(left: Signatures, right: Signatures, pairs: Pairs) -> NDArray[np.float64]:
    """The estimated Jaccard similarity of pairs (row of left, row of right); standard error at most 0.045.

    In blocks, so that the signatures of all pairs never stand in memory at once.
    """
    result = np.zeros(len(pairs))
    for start in range(0, len(pairs), _BLOCK):
        part = pairs[start : start + _BLOCK]
        result[start : start + _BLOCK] = (left[part[:, 0]] == right[part[:, 1]]).mean(axis=1)
    return result


def similar(rows: Signatures, bands: int, least: float) -> Pairs:
    """Pairs (earlier, later) of one set whose estimate is at least `least`."""
    used = np.flatnonzero(rows[:, 0] != EMPTY)
    keys = [np.zeros(0, dtype=np.int64)]
    for band in _bands(rows[used], bands):
        pairs = used[_neighbours(band)]
        keys.append(np.unique(pairs.min(axis=1) * len(rows) + pairs.max(axis=1)))
    merged = np.unique(np.concatenate(keys))
    pairs = np.stack((merged // max(len(rows), 1), merged % max(len(rows), 1)), axis=1)
    return pairs[estimates(rows, rows, pairs) >= least]


def similar_across(left: Signatures, right: Signatures, bands: int, least: float) -> Pairs:
    """Pairs (row of left, row of right) whose estimate is at least `least`; of a crowd, some."""
    mine, theirs = np.flatnonzero(left[:, 0] != EMPTY), np.flatnonzero(right[:, 0] != EMPTY)
    keys = [np.zeros(0, dtype=np.int64)]
    for ours, others in zip(_bands(left[mine], bands), _bands(right[theirs], bands), strict=True):
        pairs = _matches(ours, others)
        keys.append(mine[pairs[:, 0]] * len(right) + theirs[pairs[:, 1]])
    merged = np.unique(np.concatenate(keys))
    pairs = np.stack((merged // max(len(right), 1), merged % max(len(right), 1)), axis=1)
    return pairs[estimates(left, right, pairs) >= least]


def _bands(rows: Signatures, bands: int) -> Iterator[Hashes]:
    """For each band one key per row."""
    width = PERMUTATIONS // bands
    for first in range(0, bands * width, width):
        key = np.zeros(len(rows), dtype=np.uint64)
        for column in range(first, first + width):
            key = mix(key * np.uint64(31) + rows[:, column])
        yield key


def _neighbours(keys: Hashes) -> Pairs:
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    found = []
    for step in range(1, _NEIGHBOURS + 1):
        same = np.flatnonzero(ordered[step:] == ordered[:-step])
        found.append(np.stack((order[same], order[same + step]), axis=1))
    first = np.searchsorted(ordered, ordered)
    far = np.flatnonzero(np.arange(len(keys)) - first > _NEIGHBOURS)
    found.append(np.stack((order[first[far]], order[far]), axis=1))
    return np.concatenate(found)


def _matches(left: Hashes, right: Hashes) -> Pairs:
    """Pairs of equal keys; of the right ones with one key, at most _BUCKET spread evenly."""
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    low, high = np.searchsorted(ordered, left), np.searchsorted(ordered, left, side="right")
    taken = np.minimum(high - low, _BUCKET)
    rows = np.repeat(np.arange(len(left)), taken)
    place = np.arange(int(taken.sum())) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.stack((rows, order[low[rows] + place * (high - low)[rows] // taken[rows]]), axis=1)


def components(pairs: Pairs, count: int) -> Indices:
    """The number of the group that each of `count` rows belongs to, rows being joined by pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), dtype=np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
