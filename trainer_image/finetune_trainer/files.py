"""Writing files so that a reader sees either the old or the whole new content."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text by a temporary file and a rename in the same folder, which is made if needed."""
    write_lines(path, [text])


def write_lines(path: Path, parts: Iterable[str]) -> None:
    """Like write_atomically, for parts that together may be large; they are written as they come."""
    with replaced(path) as file:
        file.writelines(part.encode() for part in parts)


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when all is written, and never if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; another stage's container may run as another user of the group.
        Path(name).chmod(0o664)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON-lines file that this package wrote."""
    return list(stream_json_lines(path))


def stream_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The same, one row at a time."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def file_sha256(path: Path) -> str:
    """The hex SHA-256 of a file's bytes, read in pieces."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def full_volume(error: BaseException, workspace: Path) -> str:
    """The sentence about a volume without space: the one of the file that could not be written."""
    path = Path(str(getattr(error, "filename", None) or workspace))
    if not path.is_relative_to(workspace):
        return f"No space is left on the volume of {path}; make it larger."
    size = shutil.disk_usage(workspace).total / 2**30
    return (
        f"No space is left on the workspace volume ({size:.1f} GiB); raise spec.workspace.size in a new run."
    )
