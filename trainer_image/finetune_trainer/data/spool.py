"""Canonical rows on disk: a data set is examined chunk by chunk and never lies in memory as a whole."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.formats import Row


class Spool:
    """Rows by their place (from 0); `ends` are the places in the file where each row's line ends."""

    def __init__(self, path: Path, ends: NDArray[np.int64]) -> None:
        self.path = path
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __call__(self, place: int, /) -> Row:
        """The row at a place."""
        return self.rows(place, place + 1)[0]

    def __iter__(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            yield from map(unpack, file)

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return int(self._ends[-1]) if len(self) else 0

    def fitting(self, start: int, most: int, size: int) -> int:
        """The place after the rows from `start` on that are at most `most` and `size` bytes; at least one."""
        first = int(self._ends[start - 1]) if start else 0
        end = int(np.searchsorted(self._ends, first + size, side="right"))
        return min(max(end, start + 1), start + most, len(self))

    def rows(self, start: int, end: int) -> list[Row]:
        """The rows from one place to before another."""
        first = int(self._ends[start - 1]) if start else 0
        with self.path.open("rb") as file:
            text = os.pread(file.fileno(), int(self._ends[end - 1]) - first, first)
        return [unpack(line) for line in text.splitlines()]


class SpoolWriter:
    """Writes a Spool; a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("wb")
        self._lengths: list[NDArray[np.int64]] = []

    def write(self, packed: Sequence[bytes]) -> None:
        """Append rows as `pack` made them."""
        self._file.writelines(packed)
        self._lengths.append(np.array([len(line) for line in packed], np.int64))

    def __enter__(self) -> "SpoolWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def spool(self) -> Spool:
        """What was written; call it after the context."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int64)
        return Spool(self._path, np.cumsum(lengths))


def pack(row: Row) -> bytes:
    """A row as a line; JSON escapes line breaks, and ASCII keeps lone surrogates."""
    return json.dumps(asdict(row)).encode() + b"\n"


def unpack(line: bytes) -> Row:
    """The row of a line."""
    values = json.loads(line)
    return Row(**{**values, "messages": tuple(values["messages"]), "tools": tuple(values["tools"])})
