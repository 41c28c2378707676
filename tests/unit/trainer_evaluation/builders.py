"""Questions, graded answers and their files as the tests need them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from finetune_trainer.evaluation.pairs import Pair, StoredPairs
from finetune_trainer.evaluation.traces import HOLDOUT, AnsweredRow, of_pairs
from finetune_trainer.grading import Grade
from finetune_trainer.scoring.client import Prompt
from finetune_trainer.scoring.rows import GradedRow, Question, write_rows

PRIMARY = "exact"


def question(name: str, asked: str = "What?", reference: str = "this") -> Question:
    """A question of one message."""
    return Question(name, Prompt(({"role": "user", "content": asked},)), reference, group="g1")


def graded_row(
    name: str, score: float | None, output: str | None = "that", finish: str = "stop"
) -> GradedRow:
    """An answer with one grade, or none and the reason."""
    passed = None if score is None else score == 1
    reason = "cannot be graded" if score is None else "" if passed else "differs"
    problem = None if output is not None else "the engine refused it"
    grades = {PRIMARY: Grade(score, passed, reason), "other": Grade(1.0, True, "")}
    return GradedRow(name, output, finish if output is not None else None, 3, problem, grades, "g1", 0.25)


def pair(name: str, base: float | None, tuned: float | None, output: str | None = "that") -> Pair:
    """One row of both models."""
    return Pair(question(name), graded_row(name, base), graded_row(name, tuned, output))


def stored(folder: Path, pairs: Sequence[Pair]) -> StoredPairs:
    """The same in the workspace's files."""
    files = StoredPairs(folder / "holdout.jsonl", folder / "base.jsonl", folder / "tuned.jsonl")
    files.questions.write_text("".join(_line(each.question) for each in pairs), encoding="utf-8")
    write_rows(files.base, [each.base for each in pairs])
    write_rows(files.tuned, [each.tuned for each in pairs])
    return files


def answers(pairs: Iterable[Pair]) -> Iterator[AnsweredRow]:
    """The answers of both models to rows of the hold-out."""
    return of_pairs(pairs, HOLDOUT, PRIMARY)


def _line(asked: Question) -> str:
    row = {
        "id": asked.id, "messages": list(asked.prompt.messages), "reference": asked.reference, "group": asked.group,
    }  # fmt: skip
    return json.dumps(row, ensure_ascii=False) + "\n"
