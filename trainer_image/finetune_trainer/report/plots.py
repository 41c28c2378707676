"""The plots of the report: pure functions from numbers to SVG text."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise

from finetune_trainer.report import svg
from finetune_trainer.report.document import Histogram
from finetune_trainer.report.scale import MARGIN, Axis, Mark, labels, pointers, spoken, ticks
from finetune_trainer.words import number, plural

_COUNTS = 34  # the width of the counts at the left of a histogram
_BARS = 110  # the height of a histogram's bars
_BAR = 34  # the height of a stacked bar
_GAP = 8  # between labels and what they point at
_COLOURS = 8  # of parts in the style sheet
_ROOM = 16  # a part as wide as this has room for its number

Write = Callable[[float], str]


def histogram(title: str, counted: Histogram, marks: Sequence[Mark] = ()) -> str:
    """Rows over tokens per row, with marked values; one far to the right becomes a note at the edge."""
    first, last = counted.edges[0], counted.edges[-1]
    reach = last + (last - first) / 2
    axis = Axis(first, max([last, *(mark.at for mark in marks if mark.at <= reach)]), left=_COUNTS)
    above = labels(axis, marks)
    top, bottom = above.height + _GAP, above.height + _GAP + _BARS
    highest = max([1, *counted.counts])
    body = [
        *_levels(top, bottom, highest),
        *_bars(axis, counted, bottom, _BARS / highest),
        *pointers(axis, marks, above.height + 2, bottom),
        *above.texts,
        *(svg.label("tick", axis.x(value), bottom + 14, number(value)) for value in ticks(first, axis.high)),
        svg.label("tick end", svg.WIDTH - MARGIN, bottom + 29, "tokens per row"),
    ]
    rows = plural(sum(counted.counts), "row")
    described = f"{rows}, {number(first)} to {number(last)} tokens. {spoken(marks)}"
    return svg.drawing("histogram", title, described, bottom + 34, body)


def stacked_bar(
    title: str, parts: Sequence[tuple[str, float]], whole: float, write: Write, marks: Sequence[Mark] = ()
) -> str:
    """One bar of numbered parts, in the order of their legend, inside an outline of the whole."""
    ends = list(accumulate((size for _, size in parts), initial=0.0))
    axis = Axis(0, max([whole, ends[-1], *(mark.at for mark in marks)]))
    above = labels(axis, marks)
    top, bottom = above.height + _GAP, above.height + _GAP + _BAR
    body = [
        *(
            _part(i, axis.x(start), axis.x(end), top, f"{name}: {write(size)}")
            for i, ((start, end), (name, size)) in enumerate(zip(pairwise(ends), parts, strict=True))
        ),
        svg.rect("outline", axis.x(0), top, axis.x(whole) - axis.x(0), _BAR),
        *pointers(axis, marks, above.height + 2, bottom),
        *above.texts,
        svg.label("tick start", axis.x(0), bottom + 17, write(0)),
        svg.label("tick end", axis.x(axis.high), bottom + 17, write(axis.high)),
    ]
    described = f"{'; '.join(f'{name} {write(size)}' for name, size in parts)}. {spoken(marks)}"
    return svg.drawing("stacked", title, described, bottom + 24, body)


def band(title: str, bounds: tuple[float, float, float], write: Write, marks: Sequence[Mark] = ()) -> str:
    """A value between its bounds (low, expected, high) on a scale from zero, with further marks."""
    low, expected, high = bounds
    names = zip(("low", "expected", "high"), bounds, strict=True)
    shown = [*(Mark(value, f"{name} {write(value)}") for name, value in names), *marks]
    axis = Axis(0, max(mark.at for mark in shown) * 1.08)
    above = labels(axis, shown)
    top = above.height + 2
    body = [
        svg.rect("track", axis.x(0), top + 10, axis.x(axis.high) - axis.x(0), 12),
        svg.rect("band", axis.x(low), top + 4, axis.x(high) - axis.x(low), 24),
        *pointers(axis, shown, top, top + 32),
        svg.dot("expected", axis.x(expected), top + 16, 7),
        *above.texts,
        *(svg.label("tick", axis.x(value), top + 48, number(value)) for value in ticks(0, axis.high)),
    ]
    return svg.drawing("cost", title, spoken(shown), top + 54, body)


def strip(title: str, lengths: Sequence[tuple[int, bool]]) -> str:
    """A row's mask: runs of so many tokens, high where they are trained."""
    ends = list(accumulate((length for length, _ in lengths), initial=0))
    axis = Axis(0, ends[-1], left=0, right=0)
    body = (
        _run(axis.x(start), axis.x(end), length, trained)
        for (start, end), (length, trained) in zip(pairwise(ends), lengths, strict=True)
    )
    trained = sum(length for length, is_trained in lengths if is_trained)
    return svg.drawing("strip", title, f"{number(trained)} of {plural(ends[-1], 'token')} trained.", 30, body)


def _levels(top: float, bottom: float, highest: int) -> Iterable[str]:
    """Horizontal lines at round counts."""
    for value in ticks(0, highest, about=3):
        if value == int(value):
            y = bottom - (bottom - top) * value / highest
            yield svg.line("grid", _COUNTS, y, svg.WIDTH - MARGIN, y)
            yield svg.label("tick end", _COUNTS - 5, y + 4, number(value))


def _bars(axis: Axis, counted: Histogram, bottom: float, unit: float) -> Iterable[str]:
    """A bar per count, `unit` high for each row."""
    for (left, right), rows in zip(pairwise(counted.edges), counted.counts, strict=True):
        told = f"{number(left)} to {number(right)} tokens: {plural(rows, 'row')}"
        height = unit * rows
        yield svg.rect("bar", axis.x(left), bottom - height, axis.x(right) - axis.x(left), height, told)


def _part(index: int, left: float, right: float, top: float, told: str) -> str:
    drawn = svg.rect(f"part part{index % _COLOURS}", left, top, right - left, _BAR, told)
    if right - left < _ROOM:
        return drawn
    return drawn + svg.label("inside", (left + right) / 2, top + _BAR / 2 + 4, str(index + 1))


def _run(left: float, right: float, length: int, trained: bool) -> str:
    told = f"{plural(length, 'token')} {'trained' if trained else 'not trained'}"
    if trained:
        return svg.rect("trained", left, 2, right - left, 26, told)
    return svg.rect("untrained", left, 9, right - left, 12, told)
