"""Whether the tuned model still answers the suites as well as its base, as pure functions of graded rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.contracts import SuiteSpec
from finetune_trainer.scoring.rows import GradedRow
from finetune_trainer.statistics import paired_delta

ALL_SUITES = "all suites"  # no suite can have this name
_POOLED_MARGIN = 0.03
_POOLED_ROWS = 500  # with fewer, chance alone moves the bound by as much as the margin


@dataclass(frozen=True)
class Pair:
    """The scores of one question by base and tuned model."""

    base: float
    tuned: float
    group: str | None


@dataclass(frozen=True)
class SuiteResult:
    """Mean scores, the one-sided 95 % lower bound of tuned - base, and whether it stays above -margin.

    `rows` were graded for both models, a `graded` share of the suite; without any the scores are None and
    nothing holds.
    """

    rows: int
    graded: float
    base: float | None
    tuned: float | None
    low: float | None
    margin: float

    @property
    def holds(self) -> bool:
        """Whether it is shown that the tuned model lost less than the margin."""
        return self.low is not None and self.low > -self.margin

    def to_json(self) -> dict[str, Any]:
        """The result as it stands in a summary: four digits."""
        numbers = {"base": self.base, "tuned": self.tuned, "low": self.low, "margin": self.margin}
        rounded = {name: None if value is None else round(value, 4) for name, value in numbers.items()}
        return {"rows": self.rows, **rounded, "holds": self.holds}


def judge_suites(
    suites: Sequence[SuiteSpec],
    base: Mapping[str, Sequence[GradedRow]],
    tuned: Mapping[str, Sequence[GradedRow]],
) -> dict[str, SuiteResult]:
    """The result of each suite by its name; two or more with enough rows are also judged together."""
    pairs = {suite.name: _pairs(suite, base[suite.name], tuned[suite.name]) for suite in suites}
    found = {
        suite.name: _judged(pairs[suite.name], len(tuned[suite.name]), float(suite.margin))
        for suite in suites
    }
    together = [pair for name in pairs for pair in pairs[name]]
    if len(suites) > 1 and len(together) >= _POOLED_ROWS:
        asked = sum(len(rows) for rows in tuned.values())
        found[ALL_SUITES] = _judged(together, asked, _POOLED_MARGIN)
    return found


def _pairs(suite: SuiteSpec, base: Sequence[GradedRow], tuned: Sequence[GradedRow]) -> list[Pair]:
    """The rows that were graded for both; groups of two suites are different ones."""
    grader, before = suite.grader.name, {row.id: row.score(suite.grader.name) for row in base}
    return [
        Pair(first, second, f"{suite.name}/{row.group}" if row.group else None)
        for row in tuned
        if (first := before.get(row.id)) is not None and (second := row.score(grader)) is not None
    ]


def _judged(pairs: Sequence[Pair], asked: int, margin: float) -> SuiteResult:
    if not pairs:
        return SuiteResult(0, 0.0, None, None, None, margin)
    before, after = [pair.base for pair in pairs], [pair.tuned for pair in pairs]
    base, tuned = sum(before) / len(pairs), sum(after) / len(pairs)
    return SuiteResult(len(pairs), len(pairs) / asked, base, tuned, _lower_bound(before, after), margin)


def _lower_bound(before: Sequence[float], after: Sequence[float]) -> float:
    """Where no row lost, nothing speaks for a loss: the mean itself."""
    delta = paired_delta(before, after)
    return delta.score if all(map(float.__le__, before, after)) else delta.low
