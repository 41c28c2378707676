"""Answers of both models through the judge: rows with grades, and findings about the references.

What fails for one row leaves that row ungraded, with the reason.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from finetune_trainer.chat.reasoning import split_reasoning
from finetune_trainer.contracts import EvaluationSpec, GraderSpec
from finetune_trainer.errors import StageError, UserError
from finetune_trainer.grading import Grade, scored, ungraded
from finetune_trainer.judging.criteria import Decision, criteria_grade, criteria_question
from finetune_trainer.judging.judge import Judge, NotJudged
from finetune_trainer.judging.pairwise import (
    PairGrade,
    Preference,
    equal_answers,
    pair_grade,
    pairwise_question,
)
from finetune_trainer.judging.prompts import TooLong, conversation
from finetune_trainer.scoring.client import all_of
from finetune_trainer.scoring.rows import GradedRow, Question

REFERENCES = 20  # that are judged before anything else
_COMPARED = 3  # pairs of references that a judge is tried with
_NAMED = 3  # findings that are told
Done = Callable[[], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Pairs:
    """The rows of both models with their grades, in how many pairs the judge decided, and how often its
    choice changed with the order of the answers.
    """

    base: list[GradedRow]
    tuned: list[GradedRow]
    decided: int
    flipped: int

    @property
    def flip_rate(self) -> float | None:
        """The share of pairs whose order decided; None when no pair was decided."""
        return self.flipped / self.decided if self.decided else None


async def grade_by_criteria(
    questions: Sequence[Question],
    rows: Sequence[GradedRow],
    evaluation: EvaluationSpec,
    judge: Judge,
    done: Done,
) -> list[GradedRow]:
    """The rows with the grades of every JudgeCriteria; `done` is called after each row and grader."""
    graders = evaluation.graders_of("JudgeCriteria")
    asked = {question.id: question for question in questions}

    async def one(row: GradedRow) -> GradedRow:
        grades = dict(row.grades)
        for spec in graders:
            grades[spec.name] = await _criteria(asked[row.id], row, spec, judge)
            done()
        return replace(row, grades=grades)

    return await all_of(map(one, rows)) if graders else list(rows)


async def grade_pairs(
    questions: Sequence[Question],
    base: Sequence[GradedRow],
    tuned: Sequence[GradedRow],
    evaluation: EvaluationSpec,
    judge: Judge,
    done: Done,
) -> Pairs:
    """The rows of both models, paired by id, with the grades of every JudgePairwise."""
    asked = {question.id: question for question in questions}
    before, after = ({row.id: row for row in rows} for rows in (base, tuned))
    paired = [key for key in after if key in before]
    decided = flipped = 0
    for spec in evaluation.graders_of("JudgePairwise"):

        async def one(key: str, spec: GraderSpec = spec) -> PairGrade | str:
            found = await _pair(asked[key], before[key], after[key], spec, judge)
            done()
            return found

        for key, found in zip(paired, await all_of(map(one, paired)), strict=True):
            pair = _ungraded_pair(found) if isinstance(found, str) else found
            before[key] = _with_grade(before[key], spec, pair.base)
            after[key] = _with_grade(after[key], spec, pair.tuned)
            decided += not isinstance(found, str)
            flipped += pair.flipped
    return Pairs(list(before.values()), list(after.values()), decided, flipped)


async def judge_references(
    questions: Sequence[Question], evaluation: EvaluationSpec, judge: Judge
) -> list[str]:
    """What the judge finds missing in the first references, which must have full marks: rows and criteria.

    UserError when it could judge none of them, or when a criterion is met by none: then no training can be
    measured with it. JudgeUnavailable when it is away.
    """
    findings: list[str] = []
    shown = [question for question in questions if question.reference][:REFERENCES]
    for spec in evaluation.graders_of("JudgePairwise"):
        await _check_comparing(shown, spec, judge)
    for spec in evaluation.graders_of("JudgeCriteria"):

        async def one(question: Question, spec: GraderSpec = spec) -> tuple[Decision, ...] | str:
            return await _or_reason(_decide(question, question.reference, spec, judge))

        found = dict(zip([question.id for question in shown], await all_of(map(one, shown)), strict=True))
        judge.check_present()
        findings += _missed(spec, found)
    return findings[:_NAMED] + ([f"and {len(findings) - _NAMED} more"] if len(findings) > _NAMED else [])


async def _check_comparing(shown: Sequence[Question], spec: GraderSpec, judge: Judge) -> None:
    """UserError when the judge cannot compare references of two rows: better known before training."""
    problem = ""
    for question, other in list(pairwise(shown))[:_COMPARED]:
        found = await _or_reason(_prefer(question, question.reference, other.reference, spec, judge))
        if not isinstance(found, str):
            return
        problem = found
    judge.check_present()
    if problem:
        raise UserError(f"Grader {spec.name} could compare no two references: {problem}.")


def _missed(spec: GraderSpec, found: Mapping[str, tuple[Decision, ...] | str]) -> list[str]:
    judged = {row: decisions for row, decisions in found.items() if not isinstance(decisions, str)}
    if found and not judged:
        why = next(iter(found.values()))
        raise UserError(f"Grader {spec.name} judged none of the first {len(found)} references: {why}.")
    findings = []
    for place, criterion in enumerate(spec.criteria or ()):
        missing = [row for row, decisions in judged.items() if not decisions[place].met]
        if not missing:
            continue
        told = f"in row {missing[0]}: {judged[missing[0]][place].reason[:200]}"
        if len(missing) == len(judged):
            text = f"Grader {spec.name} finds that no reference meets the criterion {criterion!r} ({told})"
            raise UserError(f"{text}; correct the references, or the words of the criterion.")
        rows = ", ".join(missing[:_NAMED]) + (" ..." if len(missing) > _NAMED else "")
        findings.append(
            f"Grader {spec.name}: {len(missing)} of {len(judged)} references do not meet the criterion "
            f"{criterion!r}: rows {rows} ({told})"
        )
    return findings


async def _criteria(question: Question, row: GradedRow, spec: GraderSpec, judge: Judge) -> Grade:
    if row.output is None:
        return row.grades[spec.name]
    answer = _content(question, row)
    if not answer.strip():
        return scored(0.0, "the answer is empty")
    found = await _or_reason(_decide(question, answer, spec, judge))
    return ungraded(found) if isinstance(found, str) else criteria_grade(found, spec.criteria or ())


async def _decide(question: Question, answer: str, spec: GraderSpec, judge: Judge) -> tuple[Decision, ...]:
    task = conversation(question.prompt.messages)
    asked = criteria_question(spec.criteria or (), task, question.reference, answer)
    return await judge.decide(asked)


async def _pair(
    question: Question, base: GradedRow, tuned: GradedRow, spec: GraderSpec, judge: Judge
) -> PairGrade | str:
    """The grades of both answers, or why there are none."""
    for row in (base, tuned):
        if row.output is None:
            return f"there is no answer to compare: {row.problem}"
    first, second = _content(question, base), _content(question, tuned)
    if first == second:
        return equal_answers()
    base_first = await _or_reason(_prefer(question, first, second, spec, judge))
    if isinstance(base_first, str):
        return base_first
    tuned_first = await _or_reason(_prefer(question, second, first, spec, judge))
    return tuned_first if isinstance(tuned_first, str) else pair_grade(base_first, tuned_first)


async def _prefer(question: Question, first: str, second: str, spec: GraderSpec, judge: Judge) -> Preference:
    task = conversation(question.prompt.messages)
    asked = pairwise_question(spec.criteria or (), task, question.reference, first, second)
    return await judge.decide(asked)


async def _or_reason(decided: Coroutine[None, None, T]) -> T | str:
    try:
        return await decided
    except (NotJudged, TooLong) as error:
        return str(error)
    except StageError:
        raise
    except Exception as error:  # a defect met by one row must not end an evaluation of thousands
        return f"judging failed with {type(error).__name__}"


def _content(question: Question, row: GradedRow) -> str:
    return split_reasoning(row.output or "", opened=question.opened)[1]


def _with_grade(row: GradedRow, spec: GraderSpec, grade: Grade) -> GradedRow:
    return replace(row, grades={**row.grades, spec.name: grade})


def _ungraded_pair(reason: str) -> PairGrade:
    return PairGrade(ungraded(reason), ungraded(reason))
