"""Graders: pure functions from an output and its reference to a score in [0, 1].

An output that cannot be read scores 0. A grader that cannot work (no usable reference, a broken schema)
gives no score at all: such a row is ungraded, never 0.
"""

from finetune_trainer.grading.graders import (
    DEFERRED,
    NOT_YET,
    as_read,
    grade,
    grade_reference,
    ideal_output,
    reference_problem,
    settings_problem,
)
from finetune_trainer.grading.grades import Grade, scored, ungraded

__all__ = [
    "DEFERRED",
    "NOT_YET",
    "Grade",
    "as_read",
    "grade",
    "grade_reference",
    "ideal_output",
    "reference_problem",
    "scored",
    "settings_problem",
    "ungraded",
]
