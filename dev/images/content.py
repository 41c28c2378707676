"""What an image is made of, as one digest: the tag changes exactly when an input does."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_LEFT_OUT = {"__pycache__", ".mypy_cache", ".ruff_cache"}


def files_under(path: Path) -> list[Path]:
    """The files of a folder (or the file itself) that reach an image, in a fixed order."""
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return sorted(file for file in found if not _LEFT_OUT & set(file.relative_to(path).parts))


def digest(context: Path, inputs: Iterable[str], settings: Iterable[str]) -> str:
    """16 hex digits over names, modes and contents of `inputs` inside `context`, and over `settings`."""
    total = hashlib.sha256()
    for name in inputs:
        for file in files_under(context / name):
            mode = file.stat().st_mode & 0o111
            head = f"{file.relative_to(context)}\0{mode}\0{file.stat().st_size}\0"
            total.update(head.encode())
            total.update(file.read_bytes())
    for setting in settings:
        total.update(f"\0{setting}".encode())
    return total.hexdigest()[:16]
