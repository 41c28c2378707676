"""Parquet files, a few rows at a time, as the plain values that JSON would have held."""

import math
from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from io import BufferedReader
from itertools import count
from typing import Any

import pyarrow
from pyarrow import parquet

from finetune_trainer.errors import UserError
from finetune_trainer.reading.limits import RECORD_BYTES
from finetune_trainer.reading.lines import TOO_LONG, Line
from finetune_trainer.reading.packing import Expansion
from finetune_trainer.reading.signatures import looks_like

_MAGIC = b"PAR1"
_BATCH_ROWS = 64  # so that rows of the longest kind stay within half a gigabyte


def read_parquet(stream: BufferedReader, name: str, size: int, first: int = 1) -> Iterator[Line]:
    """The rows of a file of `size` bytes, numbered from `first`; null is an absent key, at any depth."""
    _refuse_other_files(stream.peek(len(_MAGIC)), name)
    measure = Expansion(name, size)
    numbers = count(first)
    for batch in _batches(stream, name):
        measure.add(batch.nbytes)
        for row in _rows(batch, name):
            yield _line(next(numbers), row)


def _refuse_other_files(head: bytes, name: str) -> None:
    if not head.startswith(_MAGIC):
        raise UserError(f"{name} is no Parquet file but {looks_like(head) or 'something else'}.")


def _batches(stream: BufferedReader, name: str) -> Iterator[Any]:
    """Batches of rows; whatever Arrow says about a damaged file becomes a UserError."""
    try:
        file = parquet.ParquetFile(stream)
        yield from file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError, TypeError) as error:
        raise _damaged(name, error) from error


def _rows(batch: Any, name: str) -> Iterator[Any]:
    """The rows as Python values; None in place of one that is too long."""
    try:
        if batch.nbytes <= RECORD_BYTES:
            yield from batch.to_pylist(maps_as_pydicts="strict")
            return
        for at in range(batch.num_rows):
            row = batch.slice(at, 1)
            yield row.to_pylist(maps_as_pydicts="strict")[0] if row.nbytes <= RECORD_BYTES else None
    except (pyarrow.ArrowException, ValueError, OverflowError, KeyError) as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> UserError:
    return UserError(f"{name} cannot be read as Parquet ({_first_line(error)}); write it again.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _line(number: int, row: Any) -> Line:
    if row is None:
        return Line(number, problem=TOO_LONG)
    try:
        return Line(number, _plain(row))
    except ValueError as error:
        return Line(number, problem=str(error))


def _plain(value: Any) -> Any:
    """A value with what JSON has; ValueError says what cannot be said in JSON."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items() if item is not None}
        case list():
            return [_plain(item) for item in value]
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        case bytes():
            raise ValueError("it holds raw bytes; store text columns as strings")
        case date() | time():
            return value.isoformat()
        case Decimal() | timedelta():
            return str(value)
    return value
