"""Answers that are programs: what has to run for CodeAssert, and grades of what came of it (sandbox/).

A program runs after the one that the reference is: a reference that fails its own tests says that they are
wrong, and leaves the row ungraded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading import Grade, scored, ungraded
from finetune_trainer.scoring.question_sets import QuestionSet
from finetune_trainer.scoring.rows import GradedRow, Question

SECONDS = 10
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Ran:
    """What came of a program: whether its tests passed (None: that is not known), and why not."""

    passed: bool | None
    reason: str


def code_of(answer: str) -> str:
    """The code of an answer: its first fenced block, or all of it where there is none."""
    found = _FENCED.search(answer)
    return found[1] if found else answer


def programs(
    sets: Iterable[QuestionSet], rows: Mapping[str, Sequence[GradedRow]]
) -> Iterator[dict[str, Any]]:
    """What the sandbox is to run, as its input: each reference and each answer with the row's tests."""
    for asked in sets:
        for question, row, grader in _runnable(asked, rows[asked.title]):
            answer = question.content(row.output or "")
            for what, text in (("reference", question.reference), ("answer", answer)):
                yield {
                    "id": _key(asked, row, grader, what),
                    "program": code_of(text),
                    "tests": question.tests or grader.tests,
                    "seconds": grader.timeout_seconds or SECONDS,
                }


def graded_by_running(
    asked: QuestionSet, rows: Sequence[GradedRow], ran: Mapping[str, Ran]
) -> list[GradedRow]:
    """The rows with the grades of every CodeAssert."""
    found: dict[str, dict[str, Grade]] = {}
    for _, row, grader in _runnable(asked, rows):
        reference, answer = (ran.get(_key(asked, row, grader, what)) for what in ("reference", "answer"))
        found.setdefault(row.id, {})[grader.name] = _grade(reference, answer)
    return [replace(row, grades={**row.grades, **found.get(row.id, {})}) for row in rows]


def _runnable(
    asked: QuestionSet, rows: Sequence[GradedRow]
) -> Iterator[tuple[Question, GradedRow, GraderSpec]]:
    """Every answered row with its question, for every grader that runs it."""
    for question, row in zip(asked.questions, rows, strict=True):
        for grader in asked.evaluation.graders_of("CodeAssert"):
            if row.output is not None:
                yield question, row, grader


def _key(asked: QuestionSet, row: GradedRow, grader: GraderSpec, what: str) -> str:
    return "\n".join((asked.title, row.id, grader.name, what))


def _grade(reference: Ran | None, answer: Ran | None) -> Grade:
    if reference is None or answer is None:
        return ungraded("the program was not run")
    if not reference.passed:
        return ungraded(f"the expected answer does not pass the tests: {reference.reason}")
    if answer.passed is None:
        return ungraded(answer.reason)
    return scored(float(answer.passed), answer.reason)
