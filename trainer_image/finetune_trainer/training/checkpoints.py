"""Checkpoints that are complete and intact, or ignored.

Two are kept, so that one that the storage damaged costs no more than the steps since the one before. The
older is removed before a new one is written: a volume never holds more than two.
"""

import json
import logging
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import xxhash

from finetune_trainer.files import write_atomically

# Written last, after every process has saved its part; without it a checkpoint is half written.
MARKER = "COMPLETE"
_NAME = re.compile(r"checkpoint-(\d+)")
_PIECE = 1 << 24
_GIB = 2**30
_log = logging.getLogger(__name__)


class _File(TypedDict):
    """One file of a checkpoint; XXH3 finds a flipped bit at over 20 GB/s, so reading is all it costs."""

    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Sharding:
    """How a run's state is spread: over as many processes under this ZeRO stage."""

    processes: int
    zero_stage: int


@dataclass(frozen=True)
class Marker:
    """What COMPLETE says: the input of the run, the step, how the state was spread, and every file."""

    key: str
    step: int
    sharding: Sharding
    files: dict[str, _File]

    @property
    def bytes(self) -> int:
        """The size of the checkpoint."""
        return sum(file["bytes"] for file in self.files.values())


def newest_complete(folder: Path, key: str) -> Path | None:
    """The complete checkpoint with the most steps that belongs to `key`, or None.

    `key` names the input of the run: a workspace may hold checkpoints of another one.
    """
    return max(_complete(folder, key), key=step_of, default=None)


def mark_complete(checkpoint: Path, key: str, sharding: Sharding) -> None:
    """Declare the checkpoint complete, in a way that survives a crash of the machine."""
    files = {str(path.relative_to(checkpoint)): _synced(path) for path in _files(checkpoint)}
    for directory in (path for path in checkpoint.rglob("*") if path.is_dir()):
        _sync(directory)
    marker = Marker(key, step_of(checkpoint), sharding, files)
    write_atomically(checkpoint / MARKER, json.dumps(asdict(marker)))
    _sync(checkpoint)
    _sync(checkpoint.parent)


def read_marker(checkpoint: Path) -> Marker | None:
    """What the checkpoint's marker says; None when it has none or a damaged one."""
    try:
        found = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        return Marker(found["key"], found["step"], Sharding(**found["sharding"]), found["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_room(folder: Path, key: str) -> None:
    """Delete every checkpoint but the newest complete one, before another is written."""
    newest = newest_complete(folder, key)
    for path in folder.glob("checkpoint-*"):
        if path != newest:
            _remove(path)


def remove_unusable(folder: Path, key: str) -> list[str]:
    """Delete what no resume may take; returns the names of damaged checkpoints.

    That is what a killed attempt left half written or another input left complete, and from the newest on
    every checkpoint whose files are not as they were written, until one is intact.
    """
    _remove_incomplete(folder, key)
    damaged = []
    while (newest := newest_complete(folder, key)) and (files := _damaged_files(newest)):
        _log.error("%s is skipped: %s changed since it was written", newest.name, ", ".join(files))
        damaged.append(newest.name)
        _remove(newest)
    return damaged


def kept_after_full_disk(folder: Path, key: str) -> str:
    """Free the space of a half-written checkpoint, and say what is kept and what one takes."""
    _remove_incomplete(folder, key)
    newest = newest_complete(folder, key)
    marker = read_marker(newest) if newest else None
    if marker is None:
        return "No checkpoint had been saved before."
    return (
        f"The checkpoint of step {marker.step} is kept; each takes {marker.bytes / _GIB:.2f} GiB, and the "
        "volume must hold two."
    )


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which the checkpoint was saved."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match.group(1)) if match else -1


def _complete(folder: Path, key: str) -> list[Path]:
    markers = {path: read_marker(path) for path in folder.glob("checkpoint-*") if step_of(path) > 0}
    return [path for path, marker in markers.items() if marker and marker.key == key]


def _remove_incomplete(folder: Path, key: str) -> None:
    complete = set(_complete(folder, key))
    for path in folder.glob("checkpoint-*"):
        if path not in complete:
            _remove(path)


def _remove(checkpoint: Path) -> None:
    """What cannot be deleted stays and does no harm: without the marker it counts as half written."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _damaged_files(checkpoint: Path) -> list[str]:
    marker = read_marker(checkpoint)
    files = marker.files if marker else {}
    return [name for name, file in files.items() if _read(checkpoint / name) != file]


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _synced(path: Path) -> _File:
    _sync(path)
    return _File(bytes=path.stat().st_size, xxh3=_digest(path))


def _read(path: Path) -> _File | None:
    try:
        return _File(bytes=path.stat().st_size, xxh3=_digest(path))
    except OSError:
        return None


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
