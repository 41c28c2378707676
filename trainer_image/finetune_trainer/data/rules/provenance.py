"""Rules about where rows come from and what they are for (data rules 45 and 46)."""

from typing import Any

from finetune_trainer.data.formats import detect
from finetune_trainer.data.rowrule import RowRule

_NEGATIVE = {"0", "false", "no", "negative", "bad", "rejected", "dislike", "down", "thumbs_down"}


def _unreviewed(row: dict[str, Any]) -> str | None:
    source = row.get("source")
    synthetic = isinstance(source, str) and source.strip().lower() == "synthetic"
    reviewed = str(row.get("reviewed")).lower() == "true"  # tables hold it as text
    return "it is synthetic and not reviewed" if synthetic and not reviewed else None


def _negative(row: dict[str, Any]) -> str | None:
    for key in ("label", "rating"):
        if _is_negative(row.get(key)):
            return f"`{key}` marks the answer as a bad one, and it would be trained as a good one"
    return None


def _is_negative(mark: Any) -> bool:
    if isinstance(mark, str):
        return mark.strip().lower() in _NEGATIVE
    return isinstance(mark, int | float) and mark <= 0  # false is 0 too


def _preference(row: dict[str, Any]) -> str | None:
    if detect(row) != "preference":
        return None
    return "it holds a chosen and a rejected answer, and no method here learns from such pairs"


RULES: tuple[RowRule[dict[str, Any]], ...] = (
    RowRule(45, "synthetic_unreviewed", _unreviewed, "review it and say `reviewed: true`", "warning"),
    RowRule(46, "negative_examples", _negative, "remove the row, or the mark if it means something else",
            "warning", about=("train",)),
    RowRule(46, "preference_data", _preference, "keep the chosen answer as `completion`"),
)  # fmt: skip
