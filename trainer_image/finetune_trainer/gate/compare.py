"""Scores of one model, and the paired comparison of two, as pure functions of graded rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

from finetune_trainer.contracts import EvaluationSpec, GraderSpec
from finetune_trainer.gate import verdicts
from finetune_trainer.gate.statistics import (
    Interval,
    count_groups,
    paired_delta,
    paired_lower_bound,
    score_interval,
)
from finetune_trainer.gate.verdicts import NonInferiority
from finetune_trainer.scoring.rows import GradedRow
from finetune_trainer.words import shortened

_REASON = 300  # bytes of a grader's reason in a summary, which has to fit into a termination message


@dataclass(frozen=True)
class Coverage:
    """How many of the rows the grader that graded fewest could grade, and why not the others ("" if all)."""

    rows: int
    graded: int
    grader: str
    reason: str = ""

    @property
    def share(self) -> float:
        """Graded rows of all; 0 without rows."""
        return self.graded / self.rows if self.rows else 0.0

    @property
    def ungraded(self) -> int:
        """How many rows could not be graded."""
        return self.rows - self.graded

    def summary(self) -> dict[str, Any]:
        """As it stands in a stage's summary."""
        why = {"ungradedReason": shortened(f"{self.grader}: {self.reason}", _REASON)} if self.ungraded else {}
        return {"graded": round(self.share, 4), "ungraded": self.ungraded, **why}

    def sentence(self) -> str:
        """What is said about the rows that could not be graded, "" when all could."""
        if not self.ungraded:
            return ""
        why = shortened(self.reason, _REASON)
        return f"{self.grader} could not grade {self.ungraded} of {self.rows} rows: {why}."


@dataclass(frozen=True)
class SuiteResult:
    """Both models on a suite outside of the task; None where no row could be graded for both."""

    coverage: Coverage
    base: float | None
    tuned: float | None
    found: NonInferiority | None

    @property
    def holds(self) -> bool:
        """Whether it is shown that the tuned model lost less than the margin."""
        return self.found is not None and self.found.holds


@dataclass(frozen=True)
class Comparison:
    """Base against tuned: the primary grader decides, over the rows that it graded for both.

    Scores and difference are None where there is no such row.
    """

    base: Interval | None
    tuned: Interval | None
    delta: Interval | None
    coverage: Coverage
    secondary: Mapping[str, NonInferiority]
    verdict: str


@dataclass(frozen=True)
class Pairs:
    """The scores of the rows that one grader graded for both models."""

    base: tuple[float, ...]
    tuned: tuple[float, ...]
    groups: tuple[str | None, ...]


def score(rows: Sequence[GradedRow], grader: str) -> Interval | None:
    """The score by one grader over the rows that could be graded; None when none could."""
    scored = [(value, row.group) for row in rows if (value := row.score(grader)) is not None]
    if not scored:
        return None
    return score_interval([value for value, _ in scored], [group for _, group in scored])


def means(rows: Sequence[GradedRow], evaluation: EvaluationSpec) -> dict[str, float | None]:
    """The mean score by grader; None where a grader could grade no row."""
    return {spec.name: _mean([row.score(spec.name) for row in rows]) for spec in evaluation.graders}


def coverage(models: Sequence[Sequence[GradedRow]], graders: Sequence[GraderSpec]) -> Coverage:
    """How many rows could be graded for each of the models; the last one says which rows there are."""
    return min((_covered(models, spec.name) for spec in graders), key=lambda found: found.graded)


def compare(
    base: Sequence[GradedRow],
    tuned: Sequence[GradedRow],
    evaluation: EvaluationSpec,
    suites: Sequence[SuiteResult] = (),
) -> Comparison:
    """Pair the rows by id; `suites` are the results on questions outside of the task."""
    of_all = [coverage([base, tuned], evaluation.graders), *(suite.coverage for suite in suites)]
    covered = min(of_all, key=lambda found: found.share)
    secondary = _secondary(base, tuned, evaluation)
    others = (*secondary.values(), *(suite.found for suite in suites if suite.found))
    pairs = paired(base, tuned, evaluation.primary_grader.name)
    if not pairs.base:
        return Comparison(None, None, None, covered, secondary, verdicts.UNGRADED)
    delta = paired_delta(pairs.base, pairs.tuned, pairs.groups)
    before, after = (score_interval(scores, pairs.groups) for scores in (pairs.base, pairs.tuned))
    verdict = verdicts.after(delta, evaluation.min_delta, covered.share, others)
    return Comparison(before, after, delta, covered, secondary, verdict)


def rounded(interval: Interval | None) -> dict[str, Any]:
    """An interval as it stands in a summary: four digits, or None for each of its numbers."""
    if interval is None:
        return {field.name: None for field in fields(Interval)}
    return {name: round(value, 4) for name, value in asdict(interval).items()}


def if_any(**parts: Any) -> dict[str, Any]:
    """The parts of a summary that say anything."""
    return {name: value for name, value in parts.items() if value}


def grouped(rows: Sequence[GradedRow]) -> dict[str, int]:
    """How many groups the rows are in, as it stands in a summary; nothing where no row has a group."""
    groups = [row.group for row in rows]
    return {"groups": count_groups(groups)} if any(group is not None for group in groups) else {}


def kept(results: Mapping[str, NonInferiority]) -> dict[str, Any]:
    """Scores that do not decide as they stand in a summary."""
    return {
        name: {
            "delta": round(found.delta, 4),
            "low": round(found.low, 4),
            "margin": found.margin,
            "holds": found.holds,
        }
        for name, found in results.items()
    }


def _secondary(
    base: Sequence[GradedRow], tuned: Sequence[GradedRow], evaluation: EvaluationSpec
) -> dict[str, NonInferiority]:
    """What the graders that do not decide say; of those that graded no row the coverage tells."""
    others = [spec for spec in evaluation.graders if spec is not evaluation.primary_grader]
    found = [(spec, paired(base, tuned, spec.name)) for spec in others]
    return {spec.name: non_inferiority(pairs, spec.allowed_loss) for spec, pairs in found if pairs.base}


def non_inferiority(pairs: Pairs, margin: float) -> NonInferiority:
    """Whether the tuned model lost less than the margin on the rows of the pairs; ValueError without any."""
    low = paired_lower_bound(pairs.base, pairs.tuned, pairs.groups)
    return NonInferiority(fmean(pairs.tuned) - fmean(pairs.base), low, margin)


def paired(base: Sequence[GradedRow], tuned: Sequence[GradedRow], grader: str) -> Pairs:
    """The rows that the grader graded for both models, by id."""
    before = {row.id: row.score(grader) for row in base}
    pairs = [
        (first, second, row.group)
        for row in tuned
        if (first := before.get(row.id)) is not None and (second := row.score(grader)) is not None
    ]
    return Pairs(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), tuple(p[2] for p in pairs))


def _covered(models: Sequence[Sequence[GradedRow]], grader: str) -> Coverage:
    graded = [{row.id for row in rows if row.score(grader) is not None} for rows in models]
    of_all = {row.id for row in models[-1]}
    reasons = (
        _first_reason(rows, grader) for rows in models if any(row.score(grader) is None for row in rows)
    )
    return Coverage(len(of_all), len(of_all.intersection(*graded)), grader, next(reasons, ""))


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [value for value in scores if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def _first_reason(rows: Sequence[GradedRow], grader: str) -> str:
    return next((row.grades[grader].reason for row in rows if row.score(grader) is None), "no rows")
