"""Checkpoints that are either complete or ignored."""

import json
import os
import re
import shutil
from pathlib import Path

# Written last, after every process has saved its part; without it a checkpoint is half written.
MARKER = "COMPLETE"
_NAME = re.compile(r"checkpoint-(\d+)")


def newest_complete(folder: Path, key: str) -> Path | None:
    """The complete checkpoint with the most steps that belongs to `key`, or None.

    `key` names the input of the run: a workspace may hold checkpoints of another one.
    """
    return max(_complete(folder, key), key=step_of, default=None)


def mark_complete(checkpoint: Path, key: str) -> None:
    """Declare the checkpoint complete, in a way that survives a crash of the machine."""
    _sync_tree(checkpoint)
    temporary = checkpoint / f".{MARKER}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"key": key, "step": step_of(checkpoint)}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(checkpoint / MARKER)
    _sync_folder(checkpoint)


def remove_others(folder: Path, keep: Path) -> None:
    """Delete every other checkpoint, complete or not; what cannot be deleted stays and does no harm."""
    for path in folder.glob("checkpoint-*"):
        if path != keep:
            # Without the marker first, a half deleted checkpoint could pass for a complete one.
            (path / MARKER).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def remove_incomplete(folder: Path, key: str) -> None:
    """Delete what a killed attempt left behind, so that a new save never mixes with old files."""
    complete = set(_complete(folder, key))
    for path in folder.glob("checkpoint-*"):
        if path not in complete:
            shutil.rmtree(path, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which the checkpoint was saved."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match.group(1)) if match else -1


def _complete(folder: Path, key: str) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if step_of(path) > 0 and _key_of(path) == key]


def _key_of(checkpoint: Path) -> str | None:
    try:
        return str(json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
