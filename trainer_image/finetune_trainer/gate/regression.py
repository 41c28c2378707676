"""Whether the tuned model still answers the suites as well as its base, as pure functions of graded rows."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from finetune_trainer.contracts import SuiteSpec
from finetune_trainer.gate.compare import Coverage, Pairs, SuiteResult, coverage, non_inferiority, paired
from finetune_trainer.scoring.rows import GradedRow

ALL_SUITES = "all suites"  # no suite can have this name
_POOLED_MARGIN = 0.03
_POOLED_ROWS = 500  # with fewer, chance alone moves the bound by as much as the margin

Answers = Mapping[str, Sequence[GradedRow]]


def judge_suites(suites: Sequence[SuiteSpec], base: Answers, tuned: Answers) -> dict[str, SuiteResult]:
    """The result of each suite by its name; two or more with enough rows are also judged as one.

    Left out of that are suites whose own margin allows a larger loss.
    """
    pairs = {suite.name: _pairs(suite, base, tuned) for suite in suites}
    found = {
        suite.name: _judged(pairs[suite.name], suite.grader.allowed_loss, covered(suite, base, tuned))
        for suite in suites
    }
    pooled = [suite.name for suite in suites if float(suite.grader.margin or 0) <= _POOLED_MARGIN]
    together = _joined([pairs[name] for name in pooled])
    if len(pooled) > 1 and len(together.base) >= _POOLED_ROWS:
        whole = Coverage(sum(len(tuned[name]) for name in pooled), len(together.base), ALL_SUITES)
        found[ALL_SUITES] = _judged(together, _POOLED_MARGIN, whole)
    return found


def covered(suite: SuiteSpec, *models: Answers) -> Coverage:
    """How many rows of a suite could be graded for each of the models."""
    found = coverage([rows[suite.name] for rows in models], (suite.grader,))
    return Coverage(found.rows, found.graded, f"{suite.grader.name} of suite {suite.name}", found.reason)


def in_summary(results: Mapping[str, SuiteResult]) -> dict[str, Any]:
    """Results as they stand in a summary: four digits; of suites without a graded row the coverage tells."""
    return {
        name: {
            "rows": result.coverage.graded,
            "base": _rounded(result.base),
            "tuned": _rounded(result.tuned),
            "delta": round(result.found.delta, 4),
            "low": round(result.found.low, 4),
            "margin": result.found.margin,
            "holds": result.holds,
        }
        for name, result in results.items()
        if result.found
    }


def sentences(results: Mapping[str, SuiteResult]) -> list[str]:
    """What is said of the suites on which the tuned model may have lost too much."""
    return [
        f"On {name if name == ALL_SUITES else f'the suite {name}'} it scores {result.tuned:.1%}, the base "
        f"{result.base:.1%}: it may have lost {-result.found.low:.1%}, {result.found.margin:.1%} are allowed."
        for name, result in results.items()
        if result.found and not result.holds
    ]


def _pairs(suite: SuiteSpec, base: Answers, tuned: Answers) -> Pairs:
    """The rows that were graded for both; a group belongs to its suite."""
    pairs = paired(base[suite.name], tuned[suite.name], suite.grader.name)
    groups = tuple(None if group is None else f"{suite.name}/{group}" for group in pairs.groups)
    return Pairs(pairs.base, pairs.tuned, groups)


def _joined(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(
        tuple(score for part in parts for score in part.base),
        tuple(score for part in parts for score in part.tuned),
        tuple(group for part in parts for group in part.groups),
    )


def _judged(pairs: Pairs, margin: float, found: Coverage) -> SuiteResult:
    if not pairs.base:
        return SuiteResult(found, None, None, None)
    return SuiteResult(found, fmean(pairs.base), fmean(pairs.tuned), non_inferiority(pairs, margin))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
