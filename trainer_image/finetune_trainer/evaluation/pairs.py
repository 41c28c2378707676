"""The stored rows of an evaluation, one question with both answers at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.scoring.baseline_store import rows_path
from finetune_trainer.scoring.rows import GradedRow, Question, stream_questions, stream_rows
from finetune_trainer.workspace import Workspace


@dataclass(frozen=True)
class Pair:
    """A hold-out row and what both models answered."""

    question: Question
    base: GradedRow
    tuned: GradedRow


@dataclass(frozen=True)
class StoredPairs:
    """The rows in the workspace's files, to be read as often as needed and never held at once."""

    holdout: Path
    base: Path
    tuned: Path

    def __iter__(self) -> Iterator[Pair]:
        """In the order of the hold-out; ValueError when the files are not of the same rows."""
        answers = zip(
            stream_questions(self.holdout, {}), stream_rows(self.base), stream_rows(self.tuned), strict=True
        )
        for question, base, tuned in answers:
            if not question.id == base.id == tuned.id:
                raise ValueError(f"the stored answers of row {question.id} are those of another row")
            yield Pair(question, base, tuned)


def stored_pairs(workspace: Workspace) -> StoredPairs | None:
    """The rows that the newest evaluation stored; None where they, or those of the base, are not there."""
    found = sorted(rows_path(workspace, "tuned", "").parent.glob("tuned-*.jsonl"), key=_modified)
    for tuned in reversed(found):
        base = tuned.with_name(tuned.name.replace("tuned-", "base-", 1))
        if base.is_file() and workspace.holdout.is_file():
            return StoredPairs(workspace.holdout, base, tuned)
    return None


def _modified(path: Path) -> float:
    return path.stat().st_mtime
