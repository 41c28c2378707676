"""Parquet and Arrow files, a few rows at a time, as the plain values that JSON would have held."""

import math
from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from io import BufferedReader
from itertools import count
from typing import Any

import pyarrow
from pyarrow import ipc, parquet, types

from finetune_trainer.errors import UserError
from finetune_trainer.reading.limits import RECORD_BYTES
from finetune_trainer.reading.lines import TOO_LONG, Line
from finetune_trainer.reading.packing import Expansion
from finetune_trainer.reading.signatures import looks_like
from finetune_trainer.reading.strict_json import parse_json

_PARQUET = b"PAR1"
_ARROW_FILE, _ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"
_BATCH_ROWS = 64  # so that rows of the longest kind stay within half a gigabyte
_DAMAGES = (
    pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError, TypeError, KeyError,
)  # fmt: skip


def read_parquet(stream: BufferedReader, name: str, size: int, first: int = 1) -> Iterator[Line]:
    """The rows of a file of `size` bytes, numbered from `first`; null is an absent key, at any depth."""
    _refuse_other_files(stream, name, "Parquet", (_PARQUET,))
    return _lines(_explained(_parquet_batches(stream), name, "Parquet"), name, size, first)


def read_arrow(stream: BufferedReader, name: str, size: int, first: int = 1) -> Iterator[Line]:
    """The same of an Arrow file, in the form of a stream (`Dataset.save_to_disk` writes it) or of a file."""
    _refuse_other_files(stream, name, "Arrow", (_ARROW_FILE, _ARROW_STREAM))
    return _lines(_explained(_arrow_batches(stream), name, "Arrow"), name, size, first)


def _refuse_other_files(stream: BufferedReader, name: str, kind: str, magics: tuple[bytes, ...]) -> None:
    if not (head := stream.peek()).startswith(magics):
        raise UserError(f"{name} is no {kind} file but {looks_like(head) or 'something else'}.")


def _parquet_batches(stream: BufferedReader) -> Iterator[Any]:
    yield from parquet.ParquetFile(stream).iter_batches(batch_size=_BATCH_ROWS, use_threads=False)


def _arrow_batches(stream: BufferedReader) -> Iterator[Any]:
    if stream.peek().startswith(_ARROW_STREAM):
        batches: Iterator[Any] = iter(ipc.open_stream(stream))
    else:
        file = ipc.open_file(stream)
        batches = map(file.get_batch, range(file.num_record_batches))
    for batch in batches:
        batch.validate(full=True)  # of a damaged file nothing else is checked, and reading it would crash
        for at in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(at, _BATCH_ROWS)


def _explained(batches: Iterator[Any], name: str, kind: str) -> Iterator[tuple[Any, list[Any]]]:
    """Batches with their rows as Python values, None for one that is too long; damage is a UserError."""
    try:
        for batch in batches:
            yield batch, list(_rows(batch))
    except _DAMAGES as error:
        text = f"{name} cannot be read as {kind} ({_first_line(error)}); write it again."
        raise UserError(text) from error


def _rows(batch: Any) -> Iterator[Any]:
    if batch.nbytes <= RECORD_BYTES:
        yield from batch.to_pylist(maps_as_pydicts="strict")
        return
    for at in range(batch.num_rows):
        row = batch.slice(at, 1)
        yield row.to_pylist(maps_as_pydicts="strict")[0] if row.nbytes <= RECORD_BYTES else None


def _lines(batches: Iterator[tuple[Any, list[Any]]], name: str, size: int, first: int) -> Iterator[Line]:
    measure = Expansion(name, size)
    numbers = count(first)
    for batch, rows in batches:
        measure.add(batch.nbytes)
        for row in rows:
            yield _line(next(numbers), row, batch.schema)


def _line(number: int, row: dict[str, Any] | None, schema: Any) -> Line:
    if row is None:
        return Line(number, problem=TOO_LONG)
    value = {}
    for field in schema:
        if row[field.name] is not None:
            try:
                value[field.name] = _plain(row[field.name], field.type)
            except ValueError as error:
                return Line(number, problem=f"column `{field.name}`: {error}")
    return Line(number, value)


def _plain(value: Any, kind: Any) -> Any:
    """A value of an Arrow type with what JSON has; ValueError says what cannot be written in JSON."""
    if isinstance(kind, pyarrow.JsonType):  # its values come as text
        return parse_json(value.encode())
    if types.is_dictionary(kind):
        return _plain(value, kind.value_type)
    match value:
        case dict():
            return {
                str(key): _plain(item, _inner(kind, key)) for key, item in value.items() if item is not None
            }
        case list():
            return [None if item is None else _plain(item, kind.value_type) for item in value]
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        case bytes():
            text = "it holds raw bytes, and pictures and sounds are not trained"
            raise ValueError(f"{text}; remove the column, or store its text as strings")
        case date() | time():
            return value.isoformat()
        case Decimal() | timedelta():
            return str(value)
    return value


def _inner(kind: Any, key: str) -> Any:
    return kind.item_type if types.is_map(kind) else kind.field(key).type


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
