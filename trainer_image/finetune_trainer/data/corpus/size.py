"""How many rows there are, and what that means for training (data rules 28, 29, 30)."""

import math

import numpy as np

from finetune_trainer.data.corpus.facts import Facts
from finetune_trainer.data.findings import Finding
from finetune_trainer.words import plural

MINIMUM = 100
ENOUGH = 300
_BANDS = (
    (MINIMUM, "expect no effect that can be relied on"),
    (1_000, "expect a visible change of format and style, not full generalisation"),
    (10_000, "expect a solid result on the task, less on rare cases"),
)
_MANY = "expect returns to diminish; quality and variety matter more than further rows"
_EPOCHS = 3
_MOST_EPOCHS = 25
_EXAMPLES = (100, 25_000)  # rows times epochs
_FORGETTING = 5


def too_few(train: Facts) -> Finding | None:
    """Rule 28: a few hundred distinct rows."""
    count = len(np.unique(train.row))
    if count >= ENOUGH:
        return None
    text = (
        f"The data has {plural(count, 'distinct row')}; the least is {MINIMUM}, a few hundred are needed to "
        "see an effect: add rows."
    )
    return Finding(28, "too_few", "error" if count < MINIMUM else "warning", count, (), text)


def data_band(train: Facts) -> Finding:
    """Rule 29: what to expect of so many rows."""
    count = len(train)
    words = next((words for limit, words in _BANDS if count < limit), _MANY)
    return Finding(29, "data_band", "info", count, (), f"With {plural(count, 'row')} {words}.")


def advised_epochs(rows: int) -> int:
    """Three epochs, so that 100 to 25,000 examples are seen, and at most 25 epochs (OpenAI's cookbook)."""
    if rows * _EPOCHS < _EXAMPLES[0]:
        return min(_MOST_EPOCHS, math.ceil(_EXAMPLES[0] / max(rows, 1)))
    return max(1, min(_EPOCHS, _EXAMPLES[1] // rows))


def epochs_bound(train: Facts, epochs: float) -> Finding | None:
    """Rule 30: more than five epochs teach the rows by heart and let the rest be forgotten."""
    if epochs <= _FORGETTING:
        return None
    count = len(train)
    text = (
        f"{epochs:g} epochs on {plural(count, 'row')} risk forgetting what the base can do; set "
        f"training.epochs to {min(advised_epochs(count), _FORGETTING)} or add rows."
    )
    return Finding(30, "epochs_bound", "warning", count, (), text)
