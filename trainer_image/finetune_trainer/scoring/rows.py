"""The rows of an evaluation: answered, graded, stored."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune_trainer.chat.calls import CallSyntax
from finetune_trainer.chat.reasoning import split_reasoning
from finetune_trainer.contracts import GraderSpec
from finetune_trainer.files import stream_json_lines, write_lines
from finetune_trainer.grading import Grade, as_read, grade, ungraded
from finetune_trainer.scoring.client import Answer, Prompt
from finetune_trainer.words import encodable

_MANY_CUT = 0.05  # share of answers


@dataclass(frozen=True)
class Question:
    """A hold-out row: prompt and expected answer.

    `prompt_ids` are the prompt's tokens where prepare recorded them; `opened` says that it ends inside a
    reasoning block, `syntax` how the base's template writes calls where the row offers functions; `tests` is
    code that an answer has to pass.
    """

    id: str
    prompt: Prompt
    reference: str
    prompt_ids: tuple[int, ...] = ()
    opened: bool = False
    group: str | None = None
    syntax: CallSyntax | None = None
    tests: str | None = None

    def content(self, answer: str) -> str:
        """What an answer says after its reasoning."""
        return split_reasoning(answer, opened=self.opened)[1]


@dataclass(frozen=True)
class GradedRow:
    """One row's answer with a grade per grader; `problem` says why there is no answer.

    `tokens` and `seconds` are those of the whole answer; rows of one `group` belong together.
    """

    id: str
    output: str | None
    finish: str | None
    tokens: int
    problem: str | None
    grades: Mapping[str, Grade]
    group: str | None = None
    seconds: float | None = None

    def score(self, grader: str) -> float | None:
        """The score by one grader; None when the row could not be graded."""
        return self.grades[grader].score


def read_questions(path: Path, template_kwargs: Mapping[str, Any]) -> list[Question]:
    """The hold-out that prepare wrote, to be rendered with these values for the chat template."""
    return list(stream_questions(path, template_kwargs))


def stream_questions(path: Path, template_kwargs: Mapping[str, Any]) -> Iterator[Question]:
    """The same, one row at a time."""
    return (_question(row, template_kwargs) for row in stream_json_lines(path))


def _question(row: dict[str, Any], template_kwargs: Mapping[str, Any]) -> Question:
    prompt = Prompt(tuple(row["messages"]), tuple(row.get("tools", ())), template_kwargs)
    ids = tuple(row.get("promptIds", ()))
    syntax = CallSyntax(**row["callSyntax"]) if "callSyntax" in row else None
    opened, group, tests = row.get("opened", False), row.get("group"), row.get("tests")
    return Question(str(row["id"]), prompt, row["reference"], ids, opened, group, syntax, tests)


def graded(question: Question, answer: Answer | str, graders: Sequence[GraderSpec]) -> GradedRow:
    """Grade what an answer says after its reasoning; a string instead of it says why there is none.

    A row without an answer is ungraded, not wrong.
    """
    if isinstance(answer, str):
        nothing = ungraded(answer)
        grades = {spec.name: nothing for spec in graders}
        return GradedRow(question.id, None, None, 0, nothing.reason, grades, question.group)
    text = encodable(answer.text)
    grades = {spec.name: _grade(spec, text, question) for spec in graders}
    return GradedRow(
        question.id, text, answer.finish, answer.tokens, None, grades, question.group, answer.seconds
    )


def regraded(question: Question, row: GradedRow, graders: Sequence[GraderSpec]) -> GradedRow:
    """A stored row with new grades by the graders of the user's own, whose code may have changed since."""
    if row.output is None:
        return row
    own = {spec.name: _grade(spec, row.output, question) for spec in graders if spec.type == "Python"}
    return replace(row, grades={**row.grades, **own})


def _grade(spec: GraderSpec, answer: str, question: Question) -> Grade:
    texts = (question.content(answer), question.reference)
    output, reference = (as_read(spec, text, question.syntax) for text in texts)
    return grade(spec, output, reference)


def cut(rows: Sequence[GradedRow]) -> int:
    """How many answers ended at evaluation.maxTokens and not where the model would have ended them."""
    return sum(row.finish == "length" for row in rows)


def cut_sentence(count: int, rows: int, limit: int) -> str:
    """What to know of answers that were cut at the limit of tokens; "" when none was."""
    if not count:
        return ""
    advice = "; raise it, for a right answer that is cut fails" if count > _MANY_CUT * rows else ""
    return f"{count} of {rows} answers reached evaluation.maxTokens ({limit}) and ended there{advice}."


def cut_of_both(base: int, tuned: int, limit: int) -> str:
    """The same of two models."""
    if not base and not tuned:
        return ""
    counts = f"{tuned} answers of the tuned model and {base} of the base"
    return f"{counts} reached evaluation.maxTokens ({limit}) and ended there."


def write_rows(path: Path, rows: Sequence[GradedRow]) -> None:
    """Store every answer with its grades, one JSON object per line."""
    write_lines(path, (json.dumps(_document(row), ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[GradedRow] | None:
    """Rows that were stored before; None when there are none or they are damaged."""
    try:
        return list(stream_rows(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stream_rows(path: Path) -> Iterator[GradedRow]:
    """The same, one row at a time; OSError, ValueError, KeyError or TypeError as soon as one is damaged."""
    return map(_row, stream_json_lines(path))


def _document(row: GradedRow) -> dict[str, Any]:
    return asdict(row) | {"grades": {name: asdict(value) for name, value in row.grades.items()}}


def _row(document: dict[str, Any]) -> GradedRow:
    grades = {name: Grade(**value) for name, value in document["grades"].items()}
    fields: dict[str, Any] = {**document, "grades": grades}
    return GradedRow(**fields)
