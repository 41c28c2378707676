"""The rows as they are trained: an Arrow file that prepare writes and training maps into its memory.

The pages of a mapped file are one copy for all processes of a node, which the system drops when memory is
short: no process holds rows of its own, however many there are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, ipc

from finetune_trainer.files import replaced

Tokens = NDArray[np.int32] | Sequence[int]
WriteRows = Callable[[pa.RecordBatch], None]
_COLUMN = pa.list_(pa.int32())
_SCHEMA = pa.schema({"input_ids": _COLUMN, "labels": _COLUMN})


def as_batch(rows: Iterable[Mapping[str, Tokens]]) -> pa.RecordBatch:
    """Rows as the file holds them: `input_ids`, and as many `labels` (data/tokenise.py)."""
    return pa.RecordBatch.from_pylist(list(rows), schema=_SCHEMA)


@contextmanager
def writing_rows(path: Path) -> Iterator[WriteRows]:
    """What appends a batch to a file that takes the place of `path` when all is written.

    The same batches in the same order are the same bytes.
    """
    with replaced(path) as file, ipc.new_file(file, _SCHEMA) as writer:
        yield writer.write_batch


def map_rows(path: Path) -> pa.Table:
    """The rows of a file, whose pages are read when a row is."""
    return ipc.open_file(pa.memory_map(str(path))).read_all()


def row_lengths(rows: pa.Table) -> list[int]:
    """The tokens of each row, of which none is read."""
    lengths: list[int] = compute.list_value_length(rows["input_ids"]).to_pylist()
    return lengths
