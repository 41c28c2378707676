"""Every answer of an evaluation with its prompt and grades, as JSON lines and as one Parquet file.

The columns are in docs/contracts.md, "Traces"; both files have a row for each hold-out row and model.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_trainer.evaluation.pairs import Pair
from finetune_trainer.files import replaced
from finetune_trainer.scoring.rows import GradedRow, Question

JSONL, PARQUET = "traces.jsonl", "traces.parquet"
_GRADE = {"grader": pa.string(), "score": pa.float64(), "passed": pa.bool_(), "reason": pa.string()}
SCHEMA = pa.schema(
    {
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

Trace = dict[str, Any]


def write_traces(pairs: Iterable[Pair], primary: str, folder: Path) -> None:
    """Write both files into a folder in one pass; a batch of rows is held at a time.

    `score`, `passed` and `reason` of a trace are those of the grader `primary`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replaced(folder / JSONL) as lines,
        replaced(folder / PARQUET) as table,
        pq.ParquetWriter(table, SCHEMA, compression="zstd") as parquet,
    ):
        for batch in _batches(traces(pairs, primary)):
            lines.writelines(line for _, line in batch)
            parquet.write_table(pa.Table.from_pylist([_cells(trace) for trace, _ in batch], SCHEMA))


def traces(pairs: Iterable[Pair], primary: str) -> Iterator[Trace]:
    """The traces in the order of the hold-out, of each row first that of the base."""
    for pair in pairs:
        for model, row in (("base", pair.base), ("tuned", pair.tuned)):
            yield _trace(pair.question, model, row, primary)


def _trace(question: Question, model: str, row: GradedRow, primary: str) -> Trace:
    decisive = row.grades[primary]
    return {
        "id": row.id,
        "model": model,
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


def _batches(rows: Iterable[Trace]) -> Iterator[list[tuple[Trace, bytes]]]:
    """Traces with their lines, of few enough rows and bytes to be held at once."""
    batch: list[tuple[Trace, bytes]] = []
    size = 0
    for trace in rows:
        line = f"{_text(trace)}\n".encode()
        batch.append((trace, line))
        size += len(line)
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _cells(trace: Trace) -> Trace:
    """A trace as a row of the table, where a prompt is text: no two data sets have messages of one type."""
    tools = trace["tools"]
    return {**trace, "prompt": _text(trace["prompt"]), "tools": tools and _text(tools)}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
