"""The rule about `weight`, `train` and `loss`, which say what is trained (belongs to data rule 7)."""

from typing import Any

from finetune_trainer.data.formats import turns
from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.data.spellings import given


def _wrong_mask(row: dict[str, Any]) -> str | None:
    for position, turn in enumerate(turns(row), start=1):
        if isinstance(turn, dict) and (problem := _problem(turn)):
            return f"message {position}: {problem}"
    return None


def _problem(turn: dict[str, Any]) -> str | None:
    weight, train = turn.get("weight"), turn.get("train")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        return "`weight` is neither 0 nor 1"
    if train is not None and not isinstance(train, bool):
        return "`train` is neither true nor false"
    if given(turn, "loss"):  # with a right value, and alone, it is read as `train`
        return "`loss` is neither true nor false, or stands beside `train`"
    if given(turn, "weight") and given(turn, "train") and bool(weight) != train:
        return "`weight` and `train` contradict each other"
    if turn.get("role") != "assistant" and (weight or train):
        return f"it is the {str(turn.get('role'))[:40]}'s and marked as trained, but only answers are"
    return None


RULES: tuple[RowRule[dict[str, Any]], ...] = (
    RowRule(7, "message_mask", _wrong_mask, "correct the mark or remove it"),
)
