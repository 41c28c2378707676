"""Packed files (gzip, bzip2, xz, zstd), unpacked as they are read and never beyond what data can be."""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any, Protocol

import pyarrow

from finetune_trainer.errors import UserError
from finetune_trainer.reading.kinds import Packing, kind_of
from finetune_trainer.reading.limits import (
    CHUNK_BYTES,
    DATA_SET_BYTES,
    PACKING_RATIO,
    UNSUSPICIOUS_BYTES,
)
from finetune_trainer.reading.signatures import looks_like

_MAGIC: dict[Packing, bytes] = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
}
_DAMAGES = (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowException)


def open_unpacked(path: Path, name: str) -> io.BufferedReader:
    """The bytes of a file, unpacked if its name says that it is packed; UserError if it cannot be read."""
    packing = kind_of(name).packing
    try:
        stream: io.BufferedReader = io.BufferedReader(path.open("rb", buffering=0), CHUNK_BYTES)
    except OSError as error:
        text = f"{name} cannot be read ({error.strerror}); make it readable for the pod's user or group."
        raise UserError(text) from error
    return stream if packing is None else unpack(stream, packing, name, path.stat().st_size)


def unpack(stream: io.BufferedReader, packing: Packing, name: str, packed_bytes: int) -> io.BufferedReader:
    """The unpacked bytes; UserError, also while reading, if the file is damaged or unpacks beyond measure."""
    head = stream.peek(len(_MAGIC[packing]))
    if head and not head.startswith(_MAGIC[packing]):
        text = looks_like(head) or "something else; name it by what it is"
        raise UserError(f"{name} is not packed by {packing} but {text}.")
    measure = Expansion(name, packed_bytes)
    return io.BufferedReader(_Unpacked(_unpacker(stream, packing), packing, measure), CHUNK_BYTES)


class Expansion:
    """How much came out of a packed file."""

    def __init__(self, name: str, packed_bytes: int) -> None:
        self.name = name
        self._packed = packed_bytes
        self._unpacked = 0

    def add(self, size: int) -> None:
        """Count `size` unpacked bytes; UserError once they are more than data of this size can be."""
        self._unpacked += size
        suspicious = self._unpacked > max(UNSUSPICIOUS_BYTES, PACKING_RATIO * self._packed)
        if suspicious or self._unpacked > DATA_SET_BYTES:
            text = f"{self.name} unpacks {self._packed} bytes to more than {self._unpacked >> 20} MiB"
            raise UserError(f"{text}, which no data set does; give the data unpacked if it is real.")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class _Unpacked(io.RawIOBase):
    def __init__(self, unpacker: _Readable, packing: Packing, measure: Expansion) -> None:
        self._unpacker = unpacker
        self._packing = packing
        self._measure = measure

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            piece = self._unpacker.read(len(target))
        except _DAMAGES as error:
            text = (
                f"{self._measure.name} is damaged: {self._packing} cannot unpack it ({error}); store it anew."
            )
            raise UserError(text) from error
        self._measure.add(len(piece))
        target[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._unpacker.close()
        super().close()


def _unpacker(stream: io.BufferedReader, packing: Packing) -> _Readable:
    match packing:
        case "gzip":
            return gzip.open(stream)
        case "bzip2":
            return bz2.open(stream)
        case "xz":
            return lzma.open(stream)
        case "zstd":
            unpacked: _Readable = pyarrow.CompressedInputStream(stream, "zstd")
            return unpacked
