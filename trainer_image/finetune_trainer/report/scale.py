"""From values to places: the axis of a plot, its round values, and marked values with labels above it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_trainer.report import svg

MARGIN = 14  # at the left and right of a plot
_SAME = 1e-9  # ends that differ by less than this part of them are one value
_LETTER = 6.3  # the width of a letter at the style sheet's 11 units
_LINE = 15  # the height of a line of labels


@dataclass(frozen=True)
class Mark:
    """A value to point out; `kind` is its class in the style sheet: stat, limit, budget or measured."""

    at: float
    label: str
    kind: str = "stat"


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to places across the drawing."""

    low: float
    high: float
    left: float = MARGIN
    right: float = MARGIN

    def x(self, value: float) -> float:
        """The place of a value; values beyond an end stand at that end."""
        span = self.high - self.low
        part = (value - self.low) / span if span > 0 else 0.0
        return self.left + min(1.0, max(0.0, part)) * (svg.WIDTH - self.left - self.right)


@dataclass(frozen=True)
class Labels:
    """The texts of marks above a plot and the height that they take."""

    height: float
    texts: tuple[str, ...]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two ends, about so many."""
    if high - low <= _SAME * max(1.0, abs(high)):
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    start = math.ceil(low / step)
    return [value for i in range(2 * about + 2) if (value := (start + i) * step) <= high]


def stagger(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For each span, taken from left to right, the lowest level on which it meets no other one."""
    levels = [0] * len(spans)
    ends: list[float] = []
    for index in sorted(range(len(spans)), key=lambda i: spans[i]):
        start, end = spans[index]
        level = next((i for i, taken in enumerate(ends) if taken <= start), len(ends))
        ends[level : level + 1] = [end]
        levels[index] = level
    return levels


def labels(axis: Axis, marks: Sequence[Mark]) -> Labels:
    """The labels of marks in as few lines as hold them; one beyond the axis points to the right."""
    shown = [mark.label if mark.at <= axis.high else f"{mark.label} \N{RIGHTWARDS ARROW}" for mark in marks]
    spans = [_span(axis, mark.at, text) for mark, text in zip(marks, shown, strict=True)]
    levels = stagger(spans)
    lines = max(levels, default=-1) + 1
    texts = (
        svg.label(f"mark {mark.kind}", (left + right) / 2, (lines - level) * _LINE - 2, text)
        for mark, text, (left, right), level in zip(marks, shown, spans, levels, strict=True)
    )
    return Labels(lines * _LINE, tuple(texts))


def pointers(axis: Axis, marks: Sequence[Mark], top: float, bottom: float) -> Iterable[str]:
    """A line from the labels down to the axis for each mark that stands on it."""
    for mark in marks:
        if mark.at <= axis.high:
            yield svg.line(f"mark {mark.kind}", axis.x(mark.at), top, axis.x(mark.at), bottom)


def spoken(marks: Sequence[Mark]) -> str:
    """The marks in words."""
    return ", ".join(mark.label for mark in marks) + ("." if marks else "")


def _span(axis: Axis, at: float, text: str) -> tuple[float, float]:
    """Where a label stands: over its value, but within the drawing."""
    width = min(svg.WIDTH, (len(text) + 1.5) * _LETTER)
    left = min(svg.WIDTH - width, max(0.0, axis.x(at) - width / 2))
    return left, left + width
