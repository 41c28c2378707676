"""The files of a data set, at hand on this machine."""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from finetune_trainer.errors import UserError
from finetune_trainer.reading.limits import DATA_SET_BYTES
from finetune_trainer.sources.folders import Chosen, choose


@dataclass(frozen=True)
class DataFile:
    """A file as its source names it, and the path of its bytes (`size` of them, still packed)."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class Located:
    """The files of a data set, ordered by name, and what beside them is not read (folders.choose)."""

    files: tuple[DataFile, ...]
    unread: tuple[str, ...] = ()


def locate_local(path: Path, dataset: str) -> Located:
    """The files of `train` or `holdout` at a path of this machine: one file, or a folder of them."""
    source = str(path)
    if not path.is_dir():
        return Located((local_file(path, source),))
    chosen = choose(source, lambda inner: list_folder(path / inner, f"{source}/{inner}"), dataset)
    return of_folder(chosen, (local_file(path / name, str(path / name)) for name in chosen.files))


def of_folder(chosen: Chosen, files: Iterable[DataFile]) -> Located:
    """The files that were chosen in a folder, at hand in the same order, by their paths within the source."""
    named = (replace(file, name=name) for name, file in zip(chosen.files, files, strict=True))
    return Located(tuple(named), chosen.unread)


def local_file(path: Path, source: str) -> DataFile:
    """A file on a mounted volume or this machine; UserError if there is no regular one."""
    if not path.exists():
        raise UserError(f"{source} does not exist; name the file or folder of the data.")
    if not path.is_file():
        raise UserError(f"{source} is no regular file (a pipe or a device?); store the data as a file.")
    return DataFile(path.name, path, path.stat().st_size)


def list_folder(path: Path, source: str) -> list[str]:
    """The entries of a folder as folders.choose wants them, without the links that ConfigMap volumes have."""
    try:
        entries = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(path)]
    except PermissionError as error:
        text = f"{source} cannot be listed; make it readable for the pod's user or group."
        raise UserError(text) from error
    return [name for name in entries if not name.startswith("..")]


def top_entry(name: str) -> str:
    """The entry of a folder that a path in it belongs to: the file itself, or `folder/`."""
    top, separator, _ = name.partition("/")
    return top + separator


def folder_for(source: str, scratch: Path) -> Path:
    """The folder for the files of one source: those of another never mix with them."""
    folder = scratch / sha256(source.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save(pieces: Iterable[bytes], target: Path, source: str) -> DataFile:
    """Write a download; UserError if it is larger than a data set may be or than the disk."""
    size = 0
    with target.open("wb") as file:
        for piece in pieces:
            size += len(piece)
            refuse_size(size, source)
            try:
                file.write(piece)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise UserError(f"{source} does not fit on the workspace volume; enlarge it.") from error
    return DataFile(target.name, target, size)


def refuse_size(size: int, source: str) -> None:
    """UserError if `size` bytes are more than a data set may have."""
    if size > DATA_SET_BYTES:
        text = f"{source} is larger than {DATA_SET_BYTES >> 30} GiB, the limit of a data set; sample it."
        raise UserError(text)
