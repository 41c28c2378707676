"""The drawings of an evaluation: scores with their intervals, and what happened over the training's steps."""

from collections.abc import Callable, Iterable, Sequence

from finetune_trainer.evaluation.document import Curves, Evaluation, Score
from finetune_trainer.report import svg
from finetune_trainer.report.scale import MARGIN, Axis, Mark, labels, pointers, spoken, ticks
from finetune_trainer.words import number, percent, points

_NAMES = 52  # the width of the names at the left, where none is longer than `tuned`
_LETTERS = 18  # of a name at most; tables have it whole
_LETTER = 6.3  # the width of a letter
_VALUES = 60  # the width of the values at the left of a curve
_ROW = 34  # the height of an interval's row
_HEIGHT = 110  # of a curve
_GAP = 8

Write = Callable[[float], str]


def scores(evaluation: Evaluation) -> str:
    """Base, base with other prompts and tuned model on a scale from 0 to 100 %."""
    rivals = ((_cut(name), found) for name, found in evaluation.rivals.items())
    rows = [("base", evaluation.base), *rivals, ("tuned", evaluation.tuned)]
    left = max(_NAMES, 16 + _LETTER * max(len(name) for name, _ in rows))
    return _intervals(f"Scores by {evaluation.metric}", rows, Axis(0, 1, left=left), percent)


def difference(evaluation: Evaluation) -> str:
    """The paired difference, with no difference and the smallest one that counts as an improvement."""
    delta, least = evaluation.delta, evaluation.min_delta
    edge = 0.05 + max(abs(delta.low), abs(delta.high), least)
    axis = Axis(min(-0.05, delta.low - 0.05), edge, left=_NAMES)
    marks = [Mark(0.0, "no difference"), Mark(least, f"minDelta {points(least)}", "limit")]
    return _intervals("Difference, tuned - base", [("delta", delta)], axis, points, marks)


def loss(curves: Curves) -> str:
    """The training loss over the steps."""
    return _curve("Training loss", curves.loss, curves.stride, number)


def learning_rate(curves: Curves) -> str:
    """The learning rate over the steps."""
    return _curve("Learning rate", curves.learning_rate, curves.stride, lambda value: f"{value:.1e}")


def _intervals(
    title: str, rows: Iterable[tuple[str, Score]], axis: Axis, write: Write, marks: Sequence[Mark] = ()
) -> str:
    rows, above = list(rows), labels(axis, marks)
    top = above.height + _GAP
    bottom = top + _ROW * len(rows)
    body = [
        *(piece for place, row in enumerate(rows) for piece in _interval(axis, top + _ROW * place, *row)),
        *pointers(axis, marks, above.height + 2, bottom),
        *above.texts,
        *(
            svg.label("tick", axis.x(value), bottom + 14, f"{100 * value:.0f}")
            for value in ticks(axis.low, axis.high)
        ),
    ]
    told = (f"{name} {write(row.score)} ({write(row.low)} to {write(row.high)})" for name, row in rows)
    return svg.drawing("scores", title, f"{'; '.join(told)}. {spoken(marks)}", bottom + 22, body)


def _interval(axis: Axis, top: float, name: str, value: Score) -> Iterable[str]:
    yield svg.label("tick end", axis.left - 10, top + _ROW / 2 + 4, name)
    yield svg.rect("track", axis.x(axis.low), top + 11, axis.x(axis.high) - axis.x(axis.low), 12)
    yield svg.rect("band", axis.x(value.low), top + 5, axis.x(value.high) - axis.x(value.low), 24)
    yield svg.dot("expected", axis.x(value.score), top + _ROW / 2, 6)


def _cut(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _curve(title: str, values: Sequence[float], stride: int, write: Write) -> str:
    last = max(1, len(values) * stride)
    across = Axis(0, last, left=_VALUES)
    low, high = min(0.0, min(values)), max(values) or 1.0
    places = (
        (across.x((index + 1) * stride), _height(value, low, high)) for index, value in enumerate(values)
    )
    body = [
        *_levels(low, high, write),
        svg.curve("curve", places),
        *(svg.label("tick", across.x(step), _GAP + _HEIGHT + 14, number(step)) for step in _whole(last)),
        svg.label("tick end", svg.WIDTH - MARGIN, _GAP + _HEIGHT + 29, "optimizer steps"),
    ]
    told = f"From {write(values[0])} at the start to {write(values[-1])} after {number(last)} steps"
    return svg.drawing("curves", title, f"{told}, at most {write(max(values))}.", _GAP + _HEIGHT + 34, body)


def _levels(low: float, high: float, write: Write) -> Iterable[str]:
    for value in ticks(low, high, about=3):
        y = _height(value, low, high)
        yield svg.line("grid", _VALUES, y, svg.WIDTH - MARGIN, y)
        yield svg.label("tick end", _VALUES - 5, y + 4, write(value))


def _height(value: float, low: float, high: float) -> float:
    return _GAP + _HEIGHT * (1 - (value - low) / max(high - low, 1e-12))


def _whole(last: int) -> list[float]:
    return [step for step in ticks(0, last) if step == int(step)]
