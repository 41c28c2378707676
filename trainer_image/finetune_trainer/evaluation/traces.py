"""Every answer of an evaluation with its prompt and grades, as JSON lines and as one Parquet file.

The columns are in docs/contracts.md, "Traces"; both files have a row for each answer.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_trainer.contracts import EvaluationSpec
from finetune_trainer.evaluation.pairs import Pair, rival_answers, stored_pairs, suite_pairs
from finetune_trainer.files import replaced
from finetune_trainer.scoring.rows import GradedRow, Question
from finetune_trainer.workspace import Workspace

T = TypeVar("T")
JSONL, PARQUET = "traces.jsonl", "traces.parquet"
_GRADE = {"grader": pa.string(), "score": pa.float64(), "passed": pa.bool_(), "reason": pa.string()}
SCHEMA = pa.schema(
    {
        "questions": pa.string(),
        "arm": pa.string(),
        "id": pa.string(),
        "model": pa.string(),
        "group": pa.string(),
        "prompt": pa.string(),  # JSON text
        "tools": pa.string(),  # JSON text
        "reference": pa.string(),
        "output": pa.string(),
        "problem": pa.string(),
        "finish": pa.string(),
        "tokens": pa.int64(),
        "seconds": pa.float64(),
        "score": pa.float64(),
        "passed": pa.bool_(),
        "reason": pa.string(),
        "grades": pa.list_(pa.struct(_GRADE)),
    }
)
_BATCH_ROWS = 1000
_BATCH_BYTES = 8 << 20  # a row may have hundreds of kB

HOLDOUT = "holdout"
_log = logging.getLogger(__name__)

Trace = dict[str, Any]


@dataclass(frozen=True)
class AnsweredRow:
    """A row of an evaluation: to which questions it belongs (`holdout` or `suite NAME`), and who answered it.

    `arm` is `base`, `tuned` or, where the base answered with another prompt, `rival NAME`; `grader` is the
    one whose score counts.
    """

    questions: str
    arm: str
    grader: str
    question: Question
    row: GradedRow


def all_answers(workspace: Workspace, evaluation: EvaluationSpec) -> Iterator[AnsweredRow] | None:
    """What the newest evaluation stored: of the hold-out, of its rivals, of the suites.

    None where the workspace has no answers to the hold-out; rivals and suites without any are left out.
    """
    pairs = stored_pairs(workspace)
    if pairs is None:
        return None
    holdout = of_pairs(pairs, HOLDOUT, evaluation.primary_grader.name)
    return chain(holdout, _of_rivals(workspace, evaluation), _of_suites(workspace, evaluation))


def of_pairs(pairs: Iterable[Pair], questions: str, grader: str) -> Iterator[AnsweredRow]:
    """The answers of both models, for each question first that of the base."""
    for pair in pairs:
        for arm, row in (("base", pair.base), ("tuned", pair.tuned)):
            yield AnsweredRow(questions, arm, grader, pair.question, row)


def write_traces(answers: Iterable[AnsweredRow], folder: Path) -> None:
    """Write both files into a folder in one pass; a batch of rows is held at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replaced(folder / JSONL) as lines,
        replaced(folder / PARQUET) as table,
        pq.ParquetWriter(table, SCHEMA, compression="zstd") as parquet,
    ):
        for batch in _batches(map(trace, answers)):
            lines.writelines(line for _, line in batch)
            parquet.write_table(pa.Table.from_pylist([_cells(row) for row, _ in batch], SCHEMA))


def trace(answered: AnsweredRow) -> Trace:
    """A row of the JSON lines; `score`, `passed` and `reason` are those of the grader that counts."""
    question, row = answered.question, answered.row
    decisive = row.grades[answered.grader]
    return {
        "questions": answered.questions,
        "arm": answered.arm,
        "id": row.id,
        "model": "tuned" if answered.arm == "tuned" else "base",
        "group": row.group,
        "prompt": list(question.prompt.messages),
        "tools": list(question.prompt.tools) or None,
        "reference": question.reference,
        "output": row.output,
        "problem": row.problem,
        "finish": row.finish,
        "tokens": row.tokens,
        "seconds": row.seconds,
        "score": decisive.score,
        "passed": decisive.passed,
        "reason": decisive.reason,
        "grades": [
            {"grader": name, "score": grade.score, "passed": grade.passed, "reason": grade.reason}
            for name, grade in row.grades.items()
        ],
    }


def _of_rivals(workspace: Workspace, evaluation: EvaluationSpec) -> Iterator[AnsweredRow]:
    grader = evaluation.baseline_grader.name
    for rival in evaluation.rivals or ():
        arm = f"rival {rival.name}"
        for question, (row,) in _known(rival_answers(workspace, rival.name), arm):
            yield AnsweredRow(HOLDOUT, arm, grader, question, row)


def _of_suites(workspace: Workspace, evaluation: EvaluationSpec) -> Iterator[AnsweredRow]:
    for suite in evaluation.suites:
        questions = f"suite {suite.name}"
        yield from of_pairs(
            _known(suite_pairs(workspace, suite.name), questions), questions, suite.grader.name
        )


def _known(rows: Iterable[T] | None, of: str) -> Iterable[T]:
    if rows is None:
        _log.warning("the traces lack the answers of %s: they are not in the workspace any more", of)
    return rows or ()


def _batches(rows: Iterable[Trace]) -> Iterator[list[tuple[Trace, bytes]]]:
    """Traces with their lines, of few enough rows and bytes to be held at once."""
    batch: list[tuple[Trace, bytes]] = []
    size = 0
    for row in rows:
        line = f"{_text(row)}\n".encode()
        batch.append((row, line))
        size += len(line)
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _cells(row: Trace) -> Trace:
    """A trace as a row of the table, where a prompt is text: no two data sets have messages of one type."""
    tools = row["tools"]
    return {**row, "prompt": _text(row["prompt"]), "tools": tools and _text(tools)}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
