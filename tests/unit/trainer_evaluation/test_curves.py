"""Curves: kept whole by train, thinned for a page."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluation.curves import read_curves, thinned, write_curves
from finetune_trainer.evaluation.document import Curves
from finetune_trainer.workspace import Workspace


@given(st.integers(0, 5000))
def test_a_page_gets_at_most_300_points_that_cover_every_step(steps: int) -> None:
    whole = Curves(loss=tuple(map(float, range(steps))), learning_rate=(0.1,) * steps)
    drawn = thinned(whole)
    assert len(drawn.loss) == len(drawn.learning_rate) <= 300
    assert (len(drawn.loss) - 1) * drawn.stride < max(steps, 1) <= max(len(drawn.loss) * drawn.stride, 1)


def test_points_are_means_of_the_loss_and_the_last_learning_rate() -> None:
    drawn = thinned(Curves(loss=(1.0, 3.0) * 300, learning_rate=(0.2, 0.1) * 300))
    assert (drawn.stride, set(drawn.loss), set(drawn.learning_rate)) == (2, {2.0}, {0.1})


def test_what_train_keeps_is_read_back_and_nothing_is_no_error(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert read_curves(workspace) is None
    write_curves(workspace, (2.0, 1.0), (0.1, 0.0))
    assert read_curves(workspace) == Curves(loss=(2.0, 1.0), learning_rate=(0.1, 0.0))
    workspace.curves.write_text("{")
    assert read_curves(workspace) is None
