"""The rows of an evaluation: answered, graded, stored."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.files import read_json_lines, write_lines
from finetune_trainer.grading import Grade, grade
from finetune_trainer.scoring.client import Answer


@dataclass(frozen=True)
class Question:
    """A hold-out row: prompt, with the tools that it offers, and expected answer."""

    id: str
    messages: tuple[dict[str, Any], ...]
    reference: str
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class GradedRow:
    """One row's answer with a grade per grader; `problem` says why there is no answer."""

    id: str
    output: str | None
    finish: str | None
    tokens: int
    problem: str | None
    grades: Mapping[str, Grade]

    def score(self, grader: str) -> float | None:
        """The score by one grader; None when the row could not be graded."""
        return self.grades[grader].score


def read_questions(path: Path) -> list[Question]:
    """The hold-out that prepare wrote."""
    rows = read_json_lines(path)
    return [
        Question(str(row["id"]), tuple(row["messages"]), row["reference"], tuple(row.get("tools", ())))
        for row in rows
    ]


def graded(question: Question, answer: Answer | str, graders: Sequence[GraderSpec]) -> GradedRow:
    """Grade an answer; a string instead says why the engine gave none, which leaves the row ungraded."""
    if isinstance(answer, str):
        nothing = Grade(None, None, answer)
        return GradedRow(question.id, None, None, 0, answer, {spec.name: nothing for spec in graders})
    grades = {spec.name: grade(spec, answer.text, question.reference) for spec in graders}
    return GradedRow(question.id, answer.text, answer.finish, answer.tokens, None, grades)


def write_rows(path: Path, rows: Sequence[GradedRow]) -> None:
    """Store every answer with its grades, one JSON object per line."""
    write_lines(path, (json.dumps(_document(row), ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[GradedRow] | None:
    """Rows that were stored before; None when there are none or they are damaged."""
    try:
        return [_row(document) for document in read_json_lines(path)]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _document(row: GradedRow) -> dict[str, Any]:
    return asdict(row) | {"grades": {name: asdict(value) for name, value in row.grades.items()}}


def _row(document: dict[str, Any]) -> GradedRow:
    grades = {name: Grade(**value) for name, value in document["grades"].items()}
    fields: dict[str, Any] = {**document, "grades": grades}
    return GradedRow(**fields)
