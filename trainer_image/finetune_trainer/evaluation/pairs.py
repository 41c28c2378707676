"""The stored rows of an evaluation, one question with its answers at a time.

They are found by their names: who reads them may not know the key that they are stored by.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.scoring.baseline_store import rows_path
from finetune_trainer.scoring.question_sets import place_of
from finetune_trainer.scoring.rows import GradedRow, Question, stream_questions, stream_rows
from finetune_trainer.workspace import Workspace

_KEY = "[0-9a-f]" * 12


@dataclass(frozen=True)
class Pair:
    """A question and what both models answered."""

    question: Question
    base: GradedRow
    tuned: GradedRow


@dataclass(frozen=True)
class StoredAnswers:
    """Questions and the answers of one or more models in the workspace's files.

    They can be read as often as needed and are never held at once.
    """

    questions: Path
    answers: tuple[Path, ...]

    def __iter__(self) -> Iterator[tuple[Question, tuple[GradedRow, ...]]]:
        """In the order of the questions; ValueError when the files are not of the same rows."""
        answers = zip(*map(stream_rows, self.answers), strict=True)
        for question, rows in zip(stream_questions(self.questions, {}), answers, strict=True):
            if any(row.id != question.id for row in rows):
                raise ValueError(f"the stored answers of row {question.id} are those of another row")
            yield question, rows


@dataclass(frozen=True)
class StoredPairs:
    """Questions with the answers of both models, read in the same way."""

    questions: Path
    base: Path
    tuned: Path

    def __iter__(self) -> Iterator[Pair]:
        """In the order of the questions; ValueError when the files are not of the same rows."""
        for question, (base, tuned) in StoredAnswers(self.questions, (self.base, self.tuned)):
            yield Pair(question, base, tuned)


def stored_pairs(workspace: Workspace) -> StoredPairs | None:
    """What both models answered to the hold-out in the newest evaluation; None where that is not there."""
    return _pairs(workspace, workspace.holdout, "")


def suite_pairs(workspace: Workspace, name: str) -> StoredPairs | None:
    """The same of a suite."""
    questions = workspace.suites_dir / f"{name}.jsonl"
    return _pairs(workspace, questions, place_of(questions))


def rival_answers(workspace: Workspace, name: str) -> StoredAnswers | None:
    """What the base answered to the hold-out with a rival's prompt; None where that is not there."""
    questions = workspace.rivals_dir / f"{name}.jsonl"
    found = _newest_first(workspace, f"{place_of(questions)}base")
    return StoredAnswers(questions, (found[0],)) if found and questions.is_file() else None


def _pairs(workspace: Workspace, questions: Path, place: str) -> StoredPairs | None:
    for tuned in _newest_first(workspace, f"{place}tuned"):
        base = rows_path(workspace, f"{place}base", tuned.stem.rpartition("-")[2])
        if base.is_file() and questions.is_file():
            return StoredPairs(questions, base, tuned)
    return None


def _newest_first(workspace: Workspace, who: str) -> list[Path]:
    """The files of answers that `who` may have, whatever their keys."""
    named = rows_path(workspace, who, "")
    found = named.parent.glob(f"{named.stem}{_KEY}.jsonl")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
