"""What each container is asked about answers, and the grades of what it says.

The container of a grader is asked about each expected answer before the answer itself: unless the expected
one gets full marks, the grader or the answer is wrong, and the row is ungraded.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune_trainer.container_graders.results import Said
from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading import Grade, ungraded
from finetune_trainer.scoring.question_sets import QuestionSet
from finetune_trainer.scoring.rows import GradedRow, Question


@dataclass(frozen=True)
class ContainerQuestion:
    """A question to a container: about the expected answer of a row or about the answer of the model."""

    container: str
    id: str
    title: str
    question: Question
    row: GradedRow
    grader: GraderSpec
    kind: Literal["reference", "answer"]

    def line(self) -> dict[str, Any]:
        """As it stands in the file that the container reads (docs/contracts.md)."""
        question, prompt = self.question, self.question.prompt
        answer = question.content(self.row.output or "")
        given = {"tools": list(prompt.tools), "group": question.group, "tests": question.tests}
        return {
            "id": self.id,
            "row": question.id,
            "kind": self.kind,
            "messages": list(prompt.messages),
            "output": question.reference if self.kind == "reference" else answer,
            "reference": question.reference,
            **{key: value for key, value in given.items() if value},
        }


def container_of(asked: QuestionSet, grader: GraderSpec) -> str:
    """The name of the container of a grader; the operator makes the same of the spec."""
    return f"grader-{grader.name}" if asked.suite is None else f"suite-{asked.suite}"


def questions(
    sets: Iterable[QuestionSet], rows: Mapping[str, Sequence[GradedRow]]
) -> Iterator[ContainerQuestion]:
    """All that the containers are asked; the ids of a container count from 1."""
    numbers = Counter[str]()
    for asked in sets:
        for question, row in zip(asked.questions, rows[asked.title], strict=True):
            for grader in asked.evaluation.graders_of("Container"):
                container = container_of(asked, grader)
                for kind in _kinds(question, row):
                    numbers[container] += 1
                    number = str(numbers[container])
                    yield ContainerQuestion(container, number, asked.title, question, row, grader, kind)


def _kinds(question: Question, row: GradedRow) -> Iterator[Literal["reference", "answer"]]:
    """A row without an answer is not asked about, and one without an expected answer only once."""
    if row.output is not None:
        if question.reference:
            yield "reference"
        yield "answer"


def graded_by_containers(
    sets: Sequence[QuestionSet], rows: Mapping[str, Sequence[GradedRow]], said: Mapping[str, Said]
) -> dict[str, list[GradedRow]]:
    """The rows with the grades of every container; `said` has an entry for each."""
    found: dict[tuple[str, str, str], Grade] = {}
    for asked in questions(sets, rows):
        key, told = (asked.title, asked.row.id, asked.grader.name), said[asked.container].of(asked.id)
        if key not in found or found[key].score is not None:  # else the expected answer failed
            found[key] = _graded(asked, told)
    return {asked.title: [_with(row, asked, found) for row in rows[asked.title]] for asked in sets}


def _graded(asked: ContainerQuestion, told: Grade) -> Grade:
    who = f"grader {asked.grader.name}, row {asked.row.id}"
    of_reference = asked.kind == "reference"
    if told.score is None:
        return ungraded(f"{who}{', its expected answer' if of_reference else ''}: {told.reason}")
    if of_reference and not (told.score == 1 and told.passed):
        less = f"gets {told.score:g} and not full marks" if told.score < 1 else "does not pass"
        text = f"the expected answer {less}"
        return ungraded(f"{who}: {text}{f' ({told.reason})' if told.reason else ''}")
    return told


def _with(row: GradedRow, asked: QuestionSet, found: Mapping[tuple[str, str, str], Grade]) -> GradedRow:
    own = {
        spec.name: grade
        for spec in asked.evaluation.graders_of("Container")
        if (grade := found.get((asked.title, row.id, spec.name))) is not None
    }
    return replace(row, grades={**row.grades, **own})
