"""Answers that are programs: what has to run for CodeAssert, and grades of what came of it (sandbox/).

The reference runs too: one that fails its own tests says that they are wrong, and leaves the row ungraded.
A program with its tests is known by its digest, so what several models, prompts or rows share runs once.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
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
    sets: Iterable[QuestionSet], rows: Mapping[str, Sequence[GradedRow]], known: Mapping[str, Ran]
) -> Iterator[dict[str, Any]]:
    """What the sandbox is to run, as its input: references and answers with their tests, each once.

    Left out is what is known; what could not be run before is not.
    """
    told = {key for key, ran in known.items() if ran.passed is not None}
    for asked in sets:
        for question, row, grader in _runnable(asked, rows[asked.title]):
            for text in (question.reference, question.content(row.output or "")):
                program = _program(question, grader, text)
                if (key := _key(program)) not in told:
                    told.add(key)
                    yield {"id": key, **program}


def graded_by_running(
    asked: QuestionSet, rows: Sequence[GradedRow], ran: Mapping[str, Ran]
) -> list[GradedRow]:
    """The rows with the grades of every CodeAssert."""
    found: dict[str, dict[str, Grade]] = {}
    for question, row, grader in _runnable(asked, rows):
        texts = (question.reference, question.content(row.output or ""))
        reference, answer = (ran.get(_key(_program(question, grader, text))) for text in texts)
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


def _program(question: Question, grader: GraderSpec, text: str) -> dict[str, Any]:
    """What decides the outcome of a text: its code, the tests and the time for both."""
    return {
        "program": code_of(text),
        "tests": question.tests or grader.tests,
        "seconds": grader.timeout_seconds or SECONDS,
    }


def _key(program: dict[str, Any]) -> str:
    return sha256(json.dumps(program, sort_keys=True).encode()).hexdigest()


def _grade(reference: Ran | None, answer: Ran | None) -> Grade:
    if reference is None or answer is None:
        return ungraded("the program was not run")
    if not reference.passed:
        return ungraded(f"the expected answer does not pass the tests: {reference.reason}")
    if answer.passed is None:
        return ungraded(answer.reason)
    return scored(float(answer.passed), answer.reason)
