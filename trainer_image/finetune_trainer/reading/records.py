"""The records of a data file of any kind that is read."""

import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from finetune_trainer.reading.csv_rows import read_csv
from finetune_trainer.reading.json_layout import find_layout
from finetune_trainer.reading.json_values import split_values
from finetune_trainer.reading.kinds import Kind, kind_of
from finetune_trainer.reading.lines import RawLine, Record, split_lines
from finetune_trainer.reading.packing import open_unpacked
from finetune_trainer.reading.signatures import refuse_other_than_text
from finetune_trainer.reading.tables import read_arrow, read_parquet


def read_file(path: Path, name: str, first: int = 1) -> Iterator[Record]:
    """The records of the file `name`, whose bytes are at `path`, numbered from `first`.

    JSON is not parsed here (`lines.parse_line` does it): reading is one process, parsing many.
    """
    with open_unpacked(path, name) as stream:
        yield from read_records(stream, kind_of(name).kind, name, first)


def read_records(stream: BufferedReader, kind: Kind, name: str, first: int = 1) -> Iterator[Record]:
    """The records of an unpacked stream, readable or not; UserError if the file cannot be read at all.

    Memory is bounded by a few times the longest record that is allowed, of Arrow by the batches that it was
    written in. Parquet and Arrow need a seekable stream.
    """
    match kind:
        case "jsonl" | "json":
            return split_json(stream, name, first)
        case "csv":
            refuse_other_than_text(stream.peek(), name)
            return read_csv(stream, name, first)
        case "parquet":
            return read_parquet(stream, name, _size(stream), first)
        case "arrow":
            return read_arrow(stream, name, _size(stream), first)


def split_json(stream: BufferedReader, name: str, first: int = 1) -> Iterator[RawLine]:
    """The unparsed records of a JSON file, whatever its layout."""
    head = stream.peek()
    refuse_other_than_text(head, name)
    layout = find_layout(head)
    return split_lines(stream, first) if layout.kind == "lines" else split_values(stream, name, layout, first)


def _size(stream: BufferedReader) -> int:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size
