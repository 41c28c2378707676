"""What a data file holds, told by its name."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from finetune_trainer.errors import UserError

Kind = Literal["jsonl", "json", "csv", "parquet", "arrow"]
Packing = Literal["gzip", "bzip2", "xz", "zstd"]

_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_PACKINGS: dict[str, Packing] = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
READ_NAMES = f"{', '.join(_KINDS)} (also packed, {', '.join(_PACKINGS)}; Parquet and Arrow pack themselves)"


@dataclass(frozen=True)
class FileKind:
    """`json` and `jsonl` are the same to the reader: only the content tells lines from an array."""

    kind: Kind
    packing: Packing | None = None


def find_kind(name: str) -> FileKind | None:
    """What a file of this name holds, or None if it is no data file."""
    path = PurePath(name.lower())
    packing = _PACKINGS.get(path.suffix)
    kind = _KINDS.get(path.with_suffix("").suffix if packing else path.suffix)
    if kind is None or (packing and kind in ("parquet", "arrow")):
        return None
    return FileKind(kind, packing)


def kind_of(name: str) -> FileKind:
    """What a file of this name holds; UserError that lists the names which are read."""
    kind = find_kind(name)
    if kind is None:
        raise UserError(f"{name} is not read as data; name the file by what it holds: {READ_NAMES}.")
    return kind
