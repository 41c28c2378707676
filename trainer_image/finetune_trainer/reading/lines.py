"""One record of a data file, raw and parsed; JSON lines are split here."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from finetune_trainer.reading.limits import CHUNK_BYTES, RECORD_BYTES, RECORD_MIB
from finetune_trainer.reading.strict_json import parse_json

TOO_LONG = f"it is longer than {RECORD_MIB} MiB; split it"


@dataclass(frozen=True, slots=True)
class Line:
    """One record: its number (from 1), its value, or why it has none."""

    number: int
    value: Any = None
    problem: str | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(repr(self.value))


@dataclass(frozen=True, slots=True)
class RawLine:
    """One record as JSON text that is not parsed yet, or why it has none; cheap to send to a process."""

    number: int
    raw: bytes | None
    problem: str | None = None

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return len(self.raw or b"")


Record = RawLine | Line


def split_lines(stream: BinaryIO, first: int = 1) -> Iterator[RawLine]:
    """The lines of a stream that are not blank; blank ones count. `first` is the number of the first line.

    A line of any length takes no more memory than the longest one that is allowed.
    """
    number = first
    while raw := stream.readline(RECORD_BYTES + 2):
        if _is_whole(raw):
            if text := raw.rstrip():
                yield RawLine(number, text)
        else:
            _skip_line(stream)
            yield RawLine(number, None, TOO_LONG)
        number += 1


def parse_line(line: Record) -> Line:
    """The value of a record, or what is wrong with its JSON."""
    if isinstance(line, Line):
        return line
    if line.raw is None:
        return Line(line.number, problem=line.problem)
    if line.raw.startswith(codecs.BOM_UTF8):
        text = "it starts with a byte-order mark; save the file as UTF-8 without one"
        return Line(line.number, problem=text)
    try:
        return Line(line.number, parse_json(line.raw))
    except ValueError as error:
        return Line(line.number, problem=str(error))


def _is_whole(raw: bytes) -> bool:
    return raw.endswith(b"\n") or len(raw) < RECORD_BYTES + 2


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(CHUNK_BYTES)) and not rest.endswith(b"\n"):
        pass
