"""Scores of one model, and the paired comparison of two, as pure functions of graded rows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finetune_trainer import verdicts
from finetune_trainer.contracts import EvaluationSpec
from finetune_trainer.errors import UserError
from finetune_trainer.scoring.regression import SuiteResult
from finetune_trainer.scoring.rows import GradedRow
from finetune_trainer.statistics import Interval, paired_delta, score_interval


@dataclass(frozen=True)
class Comparison:
    """Base against tuned by the primary grader, over the rows that were graded for both."""

    base: Interval
    tuned: Interval
    delta: Interval
    graded_share: float
    verdict: str


def score(rows: Sequence[GradedRow], grader: str) -> Interval:
    """The score by one grader over the rows that could be graded; UserError when none could."""
    scores = [value for row in rows if (value := row.score(grader)) is not None]
    if not scores:
        raise UserError(f"Grader {grader} could grade no row: {_first_reason(rows, grader)}")
    return score_interval(scores)


def means(rows: Sequence[GradedRow], evaluation: EvaluationSpec) -> dict[str, float | None]:
    """The mean score by grader; None where a grader could grade no row."""
    return {spec.name: _mean([row.score(spec.name) for row in rows]) for spec in evaluation.graders}


def compare(
    base: Sequence[GradedRow],
    tuned: Sequence[GradedRow],
    evaluation: EvaluationSpec,
    regression: Iterable[SuiteResult] = (),
) -> Comparison:
    """Pair the rows by id; UserError when no row was graded for both models."""
    grader = evaluation.primary_grader.name
    pairs = _pairs(base, tuned, grader)
    if not pairs:
        raise UserError(f"Grader {grader} could grade no row for both models: {_first_reason(tuned, grader)}")
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    delta, share = paired_delta(before, after), len(pairs) / max(len(tuned), 1)
    verdict = verdicts.after(delta, evaluation.min_delta, share, [result.holds for result in regression])
    return Comparison(score_interval(before), score_interval(after), delta, share, verdict)


def rounded(interval: Interval) -> dict[str, Any]:
    """An interval as it stands in a summary: four digits."""
    return {name: round(value, 4) for name, value in asdict(interval).items()}


def _pairs(base: Sequence[GradedRow], tuned: Sequence[GradedRow], grader: str) -> list[tuple[float, float]]:
    before = {row.id: row.score(grader) for row in base}
    return [
        (first, second)
        for row in tuned
        if (first := before.get(row.id)) is not None and (second := row.score(grader)) is not None
    ]


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [value for value in scores if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def _first_reason(rows: Sequence[GradedRow], grader: str) -> str:
    return next((row.grades[grader].reason for row in rows if row.score(grader) is None), "no rows")
