"""What a grader says of one output."""

from dataclasses import dataclass

from finetune_trainer.words import printable


@dataclass(frozen=True)
class Grade:
    """A score in [0, 1], whether it is full marks, and why not; score and passed are None if ungraded.

    Of a tie between two models only `passed` is None.
    """

    score: float | None
    passed: bool | None
    reason: str


def scored(score: float, reason: str) -> Grade:
    """A grade; only 1 passes. The reason may hold text of a model or of a user's code."""
    return Grade(score, score >= 1.0, printable(reason, "\n\t"))


def ungraded(reason: str) -> Grade:
    """The grader could not judge this row."""
    return Grade(None, None, printable(reason, "\n\t"))
