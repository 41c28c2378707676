"""Suites: questions outside of the task, on which the tuned model must not fall behind its base."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune_trainer.contracts import SuiteSpec
from finetune_trainer.data.findings import Finding, present
from finetune_trainer.data.holdout import (
    HoldoutRow,
    duplicate_ids,
    eval_no_reference,
    eval_reference_fails,
)
from finetune_trainer.data.load import Loaded, Watch, load
from finetune_trainer.words import plural

_MISSED = 0.05  # of a one-sided 95 % bound


def load_suite(suite: SuiteSpec, scratch: Path, watch: Watch) -> Loaded:
    """The rows of a suite, read as a hold-out is; UserError or findings that name the suite."""
    loaded = load(suite.dataset, scratch, "holdout", watch)
    return replace(loaded, findings=present(loaded.findings, label(suite)))


def label(suite: SuiteSpec) -> str:
    """The name of the data set in findings."""
    return f"suite {suite.name}"


def suite_findings(suite: SuiteSpec, rows: Sequence[HoldoutRow]) -> list[Finding]:
    """Rules 41 to 43 about a suite."""
    found = [
        _size(suite, rows),
        eval_no_reference(rows, (suite.grader,)),
        duplicate_ids(rows),
        eval_reference_fails(rows, (suite.grader,)),
    ]
    return present(found, label(suite))


def unseen_drop(rows: int) -> float:
    """The drop that as many rows can miss although base and tuned model answer all of them alike (0 to 1).

    The exact binomial bound for none of n, one-sided at 95 %: 1 - 0.05^(1/n).
    """
    return float(1 - math.pow(_MISSED, 1 / rows))


def _size(suite: SuiteSpec, rows: Sequence[HoldoutRow]) -> Finding | None:
    """Rule 41 for suites: enough rows to show a drop of the margin; rows of one group count as one."""
    independent, margin = len({row.group or row.number for row in rows}), suite.grader.allowed_loss
    if unseen_drop(independent) <= margin:
        return None
    fewest = math.ceil(math.log(_MISSED) / math.log1p(-margin)) if margin else None
    text = (
        f"{plural(independent, 'row')} can miss a drop of {unseen_drop(independent):.0%} even if base and "
        f"tuned model answer all of them alike, and the grader's margin is {margin:.0%}"
    )
    advice = "raise it" if fewest is None else f"give at least {fewest}"
    said = f"{text}; {advice}. Rows of one group count as one."
    return Finding(41, "eval_size", "warning", len(rows), (), said)
