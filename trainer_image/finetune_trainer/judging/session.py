"""One round of judging: what an evaluation asks its judge about one model, about two, and about references.

Without a judge in the evaluation everything stays as it is.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from finetune_trainer.contracts import EvaluationSpec
from finetune_trainer.judging.grade import (
    REFERENCES,
    Pairs,
    grade_by_criteria,
    grade_pairs,
    judge_references,
)
from finetune_trainer.judging.judge import Judge, JudgeUse
from finetune_trainer.judging.patience import JudgingTime
from finetune_trainer.judging.replies import Replies
from finetune_trainer.scoring.rows import GradedRow, Question

MOST_FLIPS = 0.2  # judges of whom more was measured decide by position too often to be trusted
Watch = Callable[[JudgeUse], None]
T = TypeVar("T")


@dataclass(frozen=True)
class JudgeAccess:
    """How the judge is reached: its API key, if it wants one, the replies that it gave before, its time.

    One that is `required` ends the attempt when it gives no reply (JudgeUnavailable); any other leaves rows
    ungraded.
    """

    key: str | None
    replies: Replies
    time: JudgingTime = field(default_factory=JudgingTime)
    required: bool = True


@dataclass(frozen=True)
class Judged:
    """Rows with the judge's grades (of `base` only where two models were compared), and what it took.

    `flip_rate` is the share of pairs whose order decided; None without pairs.
    """

    rows: list[GradedRow]
    use: JudgeUse = field(default_factory=JudgeUse)
    base: list[GradedRow] | None = None
    flip_rate: float | None = None

    @property
    def warnings(self) -> list[str]:
        """What to know about the judge."""
        if self.flip_rate is None or self.flip_rate <= MOST_FLIPS:
            return []
        text = f"In {self.flip_rate:.0%} of the pairs the order of the answers decided, so they are ties"
        return [f"{text}; take a stronger judge, or say more plainly in the criteria what is better."]


async def examine_references(
    evaluation: EvaluationSpec, access: JudgeAccess, questions: Sequence[Question]
) -> tuple[list[str], JudgeUse]:
    """What the judge misses in the first references; UserError where it cannot be used with them.

    JudgeUnavailable where it is away.
    """
    if evaluation.judge is None:
        return [], JudgeUse()
    return await _ask(
        evaluation,
        access,
        decisions(evaluation, REFERENCES, paired=False),
        lambda judge: judge_references(questions, evaluation, judge),
    )


async def judge_one(
    evaluation: EvaluationSpec,
    access: JudgeAccess,
    questions: Sequence[Question],
    rows: list[GradedRow],
    watch: Watch,
) -> Judged:
    """One model's rows by the criteria; `watch` is told after each of them."""
    if evaluation.judge is None:
        return Judged(rows)
    found, use = await _ask(
        evaluation,
        access,
        decisions(evaluation, len(rows), paired=False),
        lambda judge: grade_by_criteria(questions, rows, evaluation, judge, lambda: watch(judge.use)),
    )
    return Judged(found, use)


async def judge_two(
    evaluation: EvaluationSpec,
    access: JudgeAccess,
    questions: Sequence[Question],
    base: list[GradedRow],
    tuned: list[GradedRow],
    watch: Watch,
) -> Judged:
    """The tuned model's rows by the criteria, and both models' rows against each other.

    Rows of the base that the judge left ungraded before are asked again.
    """
    if evaluation.judge is None:
        return Judged(tuned, base=base)

    async def grade(judge: Judge) -> Pairs:
        def done() -> None:
            watch(judge.use)

        left = [row for row in base if _is_left(row, evaluation)]
        again = await grade_by_criteria(questions, left, evaluation, judge, lambda: None)
        regraded = {row.id: row for row in again}
        before = [regraded.get(row.id, row) for row in base]
        after = await grade_by_criteria(questions, tuned, evaluation, judge, done)
        return await grade_pairs(questions, before, after, evaluation, judge, done)

    count = decisions(evaluation, len(tuned), paired=True)
    pairs, use = await _ask(evaluation, access, count, grade)
    return Judged(pairs.tuned, use, pairs.base, pairs.flip_rate)


def _is_left(row: GradedRow, evaluation: EvaluationSpec) -> bool:
    """Whether the judge owes a grade of an answer."""
    named = (spec.name for spec in evaluation.graders_of("JudgeCriteria"))
    return row.output is not None and any(row.score(name) is None for name in named)


def decisions(evaluation: EvaluationSpec, rows: int, *, paired: bool) -> int:
    """How often the judge decides about so many rows, of one model or also of a pair."""
    alone, pairs = len(evaluation.graders_of("JudgeCriteria")), len(evaluation.graders_of("JudgePairwise"))
    return rows * (alone + pairs if paired else alone)


async def _ask(
    evaluation: EvaluationSpec, access: JudgeAccess, count: int, work: Callable[[Judge], Awaitable[T]]
) -> tuple[T, JudgeUse]:
    assert evaluation.judge is not None
    async with Judge(
        evaluation.judge, access.key, access.replies, 2 * count, access.time, access.required
    ) as judge:
        return await work(judge), judge.use
