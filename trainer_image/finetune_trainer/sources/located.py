"""The files of a data set, at hand on this machine."""

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from finetune_trainer.errors import UserError
from finetune_trainer.reading.limits import DATA_SET_BYTES

_LISTED = 10


@dataclass(frozen=True)
class DataFile:
    """A file as its source names it, and the path of its bytes (`size` of them, still packed)."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class Located:
    """The files of a data set, ordered by name, and what lies beside them in the folder and is not read.

    Not read are folders (`name/`) and what is hidden by custom: names that start with `.` or `_`. Everything
    else is in `files`, also what is no data: rule 4 (data.file_rules.mixed_files) judges that.
    """

    files: tuple[DataFile, ...]
    unread: tuple[str, ...] = ()


def choose(source: str, names: Iterable[str]) -> tuple[list[str], tuple[str, ...]]:
    """Which entries of a folder are files of the data set, and which are not read (folders end with `/`)."""
    entries = sorted(names)
    files = [name for name in entries if not name.endswith("/") and name[0] not in "._"]
    unread = tuple(name for name in entries if name not in files)
    if not files:
        raise UserError(f"{source} is a folder without data files; it holds {some(unread)}. Name the data.")
    return files, unread


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


def some(names: Iterable[str]) -> str:
    """The first names for a message, and how many more there are."""
    listed = sorted(names)
    if not listed:
        return "nothing"
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
