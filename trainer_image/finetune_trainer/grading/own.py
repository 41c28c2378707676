"""Graders of the user's own: a Python class in an image that is built from the trainer's."""

import math
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading.grades import Grade, scored, ungraded

_Grading = Callable[[str, str], object]


def own(spec: GraderSpec, output: str, reference: str) -> Grade:
    """What the class says; a return value that is no (score, reason) leaves the row ungraded."""
    said = _loaded(spec.grader or "")(output, reference)
    match said:
        case (int() | float() as score, str() as reason) if not isinstance(score, bool):
            if math.isfinite(score) and 0 <= score <= 1:
                return scored(float(score), reason[:500])
            return ungraded(f"the grader returned the score {score}, which is not between 0 and 1")
        case (None, str() as reason):
            return ungraded(reason[:500])
    return ungraded(f"the grader returned {type(said).__name__}, not a score and a reason")


def class_problem(spec: GraderSpec) -> str | None:
    """Why the class cannot be used, or None."""
    try:
        _loaded(spec.grader or "")
    except (Exception, SystemExit) as error:  # the module is the user's and may raise anything
        said = str(error) or type(error).__name__
        return f"{spec.grader} cannot be loaded ({said[:200]}); the trainer image has to hold it"
    return None


@lru_cache(maxsize=8)
def _loaded(name: str) -> _Grading:
    """The method `grade` of a new instance of `package.module:Class`."""
    module, _, made = name.partition(":")
    grading: _Grading = getattr(import_module(module), made)().grade
    return grading
