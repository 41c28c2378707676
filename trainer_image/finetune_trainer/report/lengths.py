"""Length statistics (rule 27) from the tokens of every row."""

import math
from collections.abc import Sequence

from finetune_trainer.report.document import Histogram, Lengths

_BARS = 30  # at most; more do not fit on a phone
_STEPS = (1, 2, 5)


def measure_lengths(rows: Sequence[int], answers: Sequence[int], limit: int | None) -> Lengths:
    """The lengths of at least one row; `answers` are the trained tokens of the same rows."""
    ordered = sorted(rows)
    return Lengths(
        min=ordered[0],
        p5=_percentile(ordered, 5),
        p50=_percentile(ordered, 50),
        p95=_percentile(ordered, 95),
        max=ordered[-1],
        total=sum(rows),
        trained=sum(answers),
        limit=limit,
        histogram=count(rows),
        answers=count(answers),
    )


def count(values: Sequence[int]) -> Histogram:
    """A histogram of at least one whole number with equally wide bars of a round width."""
    width = _round_width(max(values) - min(values) + 1)
    first = min(values) // width
    counts = [0] * (max(values) // width - first + 1)
    for value in values:
        counts[value // width - first] += 1
    edges = tuple(float((first + i) * width) for i in range(len(counts) + 1))
    return Histogram(edges=edges, counts=tuple(counts))


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """The smallest value that `percent` of all do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


def _round_width(span: int) -> int:
    """1, 2, 5, 10, 20, ...: the smallest that needs at most `_BARS` bars for a span."""
    power = 1
    while True:
        for step in _STEPS:
            if span <= step * power * (_BARS - 1):
                return step * power
        power *= 10
