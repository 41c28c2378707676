"""Loss and learning rate over the optimizer steps: kept by train, thinned for the report."""

from collections.abc import Sequence

from pydantic import ValidationError

from finetune_trainer.evaluation.document import Curves
from finetune_trainer.files import write_atomically
from finetune_trainer.workspace import Workspace

_POINTS = 300  # as many as a drawing can show


def write_curves(workspace: Workspace, losses: Sequence[float], learning_rates: Sequence[float]) -> None:
    """Keep what every step reported, in the order of the steps."""
    curves = Curves(loss=tuple(losses), learning_rate=tuple(learning_rates))
    write_atomically(workspace.curves, curves.to_json())


def read_curves(workspace: Workspace) -> Curves | None:
    """What train kept, thinned; None where it kept nothing."""
    try:
        return thinned(Curves.model_validate_json(workspace.curves.read_bytes()))
    except (OSError, ValidationError):
        return None


def thinned(curves: Curves) -> Curves:
    """At most 300 points: the mean loss and the last learning rate of as many steps each."""
    stride = -(-len(curves.loss) // _POINTS)
    if stride <= 1:
        return curves
    starts = range(0, len(curves.loss), stride)
    return Curves(
        stride=stride * curves.stride,
        loss=tuple(_mean(curves.loss[start : start + stride]) for start in starts),
        learning_rate=tuple(curves.learning_rate[start : start + stride][-1] for start in starts),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
