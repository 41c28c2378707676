"""Plots as SVG text: pure functions of numbers; colours and fonts come from the page's style sheet.

A drawing is `WIDTH` units wide and scales with the page; each has a title and a description in words.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

from finetune_trainer.report.document import Histogram
from finetune_trainer.report.words import number, plural, printable

WIDTH = 440
_SVG = "http://www.w3.org/2000/svg"
_LEFT, _RIGHT = 34, 14
_LETTER = 6.3  # the width of a letter at the style sheet's 11 units
_LINE = 15  # the height of a line of labels
_BARS = 110  # the height of a histogram's bars
_BAR = 34  # the height of a stacked bar


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
    left: float = _LEFT

    def x(self, value: float) -> float:
        """The place of a value; values beyond an end stand at that end."""
        span = self.high - self.low
        part = (value - self.low) / span if span > 0 else 0.0
        return self.left + min(1.0, max(0.0, part)) * (WIDTH - self.left - _RIGHT)


def histogram(title: str, counted: Histogram, marks: Sequence[Mark] = (), unit: str = "tokens") -> str:
    """Bars of counts over values, with marked values; a mark far to the right becomes a note at the edge."""
    first, last = counted.edges[0], counted.edges[-1]
    reach = last + (last - first) / 2
    axis = Axis(first, max([last, *(mark.at for mark in marks if mark.at <= reach)]))
    levels, labels = _labels(axis, [_edge_note(mark, axis) for mark in marks])
    top = levels * _LINE + 8
    bottom = top + _BARS
    highest = max([1, *counted.counts])
    bars = (
        _bar(axis, left, right, n, bottom - _BARS * n / highest, bottom, unit)
        for left, right, n in zip(counted.edges, counted.edges[1:], counted.counts, strict=False)
    )
    body = [
        *_levels(top, bottom, highest),
        *bars,
        *_pointers(axis, marks, levels, bottom),
        *labels,
        *_ticks(axis, bottom, unit),
    ]
    described = f"{plural(sum(counted.counts), 'row')}, {number(first)} to {number(last)} {unit}. " + _spoken(
        marks
    )
    return _drawing(title, described, bottom + 34, body)


def stacked_bar(
    title: str,
    parts: Sequence[tuple[str, float]],
    whole: float,
    write: Callable[[float], str],
    marks: Sequence[Mark] = (),
) -> str:
    """One bar of numbered parts (as in a legend that lists them in order) inside an outline of the whole."""
    ends = list(accumulate((size for _, size in parts), initial=0.0))
    axis = Axis(0, max([whole, ends[-1], *(mark.at for mark in marks)]), left=_RIGHT)
    levels, labels = _labels(axis, marks)
    top = levels * _LINE + 8
    segments = (
        _segment(i, axis.x(start), top, axis.x(start + size) - axis.x(start), f"{name}: {write(size)}")
        for i, (start, (name, size)) in enumerate(zip(ends, parts, strict=False))
    )
    outline = _rect("outline", axis.x(0), top, axis.x(whole) - axis.x(0), _BAR)
    body = [*segments, outline, *_pointers(axis, marks, levels, top + _BAR), *labels]
    described = "; ".join(f"{name} {write(size)}" for name, size in parts) + ". " + _spoken(marks)
    return _drawing(title, described, top + _BAR + 26, [*body, *_ends(axis, top + _BAR, write)])


def band(
    title: str, low: float, middle: float, high: float, marks: Sequence[Mark], write: Callable[[float], str]
) -> str:
    """A value with its bounds on a scale from zero, with further marks."""
    own = [
        Mark(low, f"low {write(low)}"),
        Mark(middle, f"expected {write(middle)}"),
        Mark(high, f"high {write(high)}"),
    ]
    shown = [*own, *marks]
    axis = Axis(0, max(mark.at for mark in shown) * 1.08, left=_RIGHT)
    levels, labels = _labels(axis, shown)
    top = levels * _LINE + 8
    body = [
        _rect("track", axis.x(0), top + 10, axis.x(axis.high) - axis.x(0), 12),
        _rect("band", axis.x(low), top + 4, axis.x(high) - axis.x(low), 24),
        *_pointers(axis, shown, levels, top + 32),
        f'<circle class="middle" cx="{axis.x(middle):.2f}" cy="{top + 16}" r="7"/>',
        *labels,
        *_ends(axis, top + 32, write),
    ]
    return _drawing(title, _spoken(shown), top + 58, body)


def strip(title: str, lengths: Sequence[tuple[int, bool]]) -> str:
    """A row's mask as a strip: runs of so many tokens, trained or not."""
    total = sum(length for length, _ in lengths)
    axis = Axis(0, max(1, total), left=_RIGHT)
    starts = accumulate((length for length, _ in lengths), initial=0)
    body = [
        _rect("trained" if trained else "untrained", axis.x(start), 4 if trained else 9,
              axis.x(start + length) - axis.x(start), 22 if trained else 12,
              f"{plural(length, 'token')} {'trained' if trained else 'not trained'}")
        for start, (length, trained) in zip(starts, lengths, strict=False)
    ]  # fmt: skip
    trained = sum(length for length, is_trained in lengths if is_trained)
    return _drawing(title, f"{number(trained)} of {plural(total, 'token')} trained.", 30, body)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between two ends, about so many."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    start = math.ceil(low / step)
    return [value for i in range(2 * about + 2) if (value := (start + i) * step) <= high]


def stagger(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For each span from left to right the lowest level on which it meets no other one."""
    levels = [0] * len(spans)
    ends: list[float] = []
    for index in sorted(range(len(spans)), key=lambda i: spans[i]):
        start, end = spans[index]
        level = next((i for i, taken in enumerate(ends) if taken <= start), len(ends))
        ends[level : level + 1] = [end]
        levels[index] = level
    return levels


def _labels(axis: Axis, marks: Sequence[Mark]) -> tuple[int, list[str]]:
    """How many lines the labels of marks take on top of a plot, and their texts."""
    spans = [_label_span(axis, mark) for mark in marks]
    levels = stagger(spans)
    count = max(levels, default=-1) + 1
    texts = [
        _text(f"mark {mark.kind}", (left + right) / 2, (count - level) * _LINE - 2, mark.label)
        for mark, (left, right), level in zip(marks, spans, levels, strict=True)
    ]
    return count, texts


def _label_span(axis: Axis, mark: Mark) -> tuple[float, float]:
    """Where a label stands: over its value, but within the drawing."""
    width = min(WIDTH, (len(mark.label) + 1.5) * _LETTER)
    left = min(WIDTH - width, max(0.0, axis.x(mark.at) - width / 2))
    return left, left + width


def _edge_note(mark: Mark, axis: Axis) -> Mark:
    if mark.at <= axis.high:
        return mark
    return Mark(mark.at, f"{mark.label} \N{RIGHTWARDS ARROW}", mark.kind)


def _pointers(axis: Axis, marks: Sequence[Mark], levels: int, bottom: float) -> Iterable[str]:
    """A line from the labels down to the axis for each mark that stands on the scale."""
    top = levels * _LINE + 3
    for mark in marks:
        if mark.at <= axis.high:
            x = axis.x(mark.at)
            yield f'<line class="mark {mark.kind}" x1="{x:.2f}" x2="{x:.2f}" y1="{top}" y2="{bottom}"/>'


def _levels(top: float, bottom: float, highest: int) -> Iterable[str]:
    """Horizontal lines at round counts."""
    for value in ticks(0, highest, about=3):
        if value == int(value):
            y = bottom - (bottom - top) * value / highest
            yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.2f}" y2="{y:.2f}"/>'
            yield _text("tick end", _LEFT - 5, y + 4, number(value))


def _ticks(axis: Axis, bottom: float, unit: str) -> Iterable[str]:
    for value in ticks(axis.low, axis.high):
        yield _text("tick", axis.x(value), bottom + 14, number(value))
    yield _text("tick end", WIDTH - _RIGHT, bottom + 29, f"{unit} per row")


def _ends(axis: Axis, bottom: float, write: Callable[[float], str]) -> Iterable[str]:
    yield _text("tick start", axis.x(axis.low), bottom + 17, write(axis.low))
    yield _text("tick end", axis.x(axis.high), bottom + 17, write(axis.high))


def _bar(axis: Axis, left: float, right: float, count: int, top: float, bottom: float, unit: str) -> str:
    told = f"{number(left)} to {number(right)} {unit}: {plural(count, 'row')}"
    return _rect("bar", axis.x(left), top, axis.x(right) - axis.x(left), bottom - top, told)


def _segment(index: int, x: float, y: float, width: float, told: str) -> str:
    drawn = _rect(f"part part{index % 8}", x, y, width, _BAR, told)
    return drawn + (_text("inside", x + width / 2, y + _BAR / 2 + 4, str(index + 1)) if width > 16 else "")


def _rect(kind: str, x: float, y: float, width: float, height: float, told: str = "") -> str:
    place = f'x="{x:.2f}" y="{y:.2f}" width="{max(0.0, width):.2f}" height="{max(0.0, height):.2f}"'
    return (
        f'<rect class="{kind}" {place}><title>{_safe(told)}</title></rect>'
        if told
        else f'<rect class="{kind}" {place}/>'
    )


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.2f}">{_safe(text)}</text>'


def _spoken(marks: Sequence[Mark]) -> str:
    return ", ".join(mark.label for mark in marks) + ("." if marks else "")


def _drawing(title: str, described: str, height: float, body: Iterable[str]) -> str:
    name = _safe(f"{title}. {described}")
    head = f'<svg xmlns="{_SVG}" role="img" viewBox="0 0 {WIDTH} {height:.0f}" aria-label="{name}">'
    told = f"<title>{_safe(title)}</title><desc>{_safe(described)}</desc>"
    return f"{head}{told}{''.join(body)}</svg>"


def _safe(text: str) -> str:
    return escape(printable(text))
