"""Checkpoints that are complete and intact, or ignored.

Two are kept, so that one that the storage damaged costs no more than the steps since the one before. The
older is removed before a new one is written: a volume never holds more than two. The processes of a run
share the reading of a checkpoint's files, which one alone would need hours for (70B Full: 980 GB).
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
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


class File(TypedDict):
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
    files: dict[str, File]

    @property
    def bytes(self) -> int:
        """The size of the checkpoint."""
        return sum(self.sizes.values())

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each file."""
        return {name: file["bytes"] for name, file in self.files.items()}


def newest_complete(folder: Path, key: str) -> Path | None:
    """The complete checkpoint with the most steps that belongs to `key`, or None.

    `key` names the input of the run: a workspace may hold checkpoints of another one.
    """
    return max(_complete(folder, key), key=step_of, default=None)


def file_sizes(checkpoint: Path) -> dict[str, int]:
    """The bytes of each file, by its path inside the checkpoint."""
    files = (path for path in checkpoint.rglob("*") if path.is_file())
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


def share(sizes: Mapping[str, int], rank: int, processes: int) -> list[str]:
    """The files that process `rank` reads: the largest first, each goes to the one with the least so far."""
    taken = dict.fromkeys(range(processes), 0)
    mine = []
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        reader = min(taken, key=lambda process: taken[process])
        taken[reader] += sizes[name]
        if reader == rank:
            mine.append(name)
    return mine


def write_to_disk(checkpoint: Path, names: Iterable[str]) -> dict[str, File]:
    """Make these files survive a crash of the machine; what the marker says of them."""
    return {name: _synced(checkpoint / name) for name in names}


def mark_complete(checkpoint: Path, key: str, sharding: Sharding, files: dict[str, File]) -> None:
    """Declare the checkpoint complete once all of its `files` are on the disk."""
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


def newest_marker(folder: Path, key: str) -> Marker | None:
    """What the marker of the newest complete checkpoint says; None without one."""
    newest = newest_complete(folder, key)
    return read_marker(newest) if newest else None


def make_room(folder: Path, key: str) -> None:
    """Delete every checkpoint but the newest complete one, before another is written."""
    newest = newest_complete(folder, key)
    for path in folder.glob("checkpoint-*"):
        if path != newest:
            _remove(path)


def remove_incomplete(folder: Path, key: str) -> None:
    """Delete what no resume may take: what is half written, and what another input left complete."""
    complete = set(_complete(folder, key))
    for path in folder.glob("checkpoint-*"):
        if path not in complete:
            _remove(path)


def changed_files(checkpoint: Path, marker: Marker, names: Iterable[str]) -> list[str]:
    """Those of the files that are not as they were written."""
    return [name for name in names if _read(checkpoint / name) != marker.files[name]]


def remove_damaged(checkpoint: Path, changed: list[str]) -> None:
    """Delete a checkpoint with changed files, and say so."""
    _log.error("%s is skipped: %s changed since it was written", checkpoint.name, ", ".join(changed))
    _remove(checkpoint)


def kept_after_full_disk(folder: Path, key: str) -> str:
    """Free the space of a half-written checkpoint, and say what is kept and what one takes."""
    remove_incomplete(folder, key)
    marker = newest_marker(folder, key)
    if marker is None:
        return "No checkpoint had been saved before."
    text = f"The checkpoint of step {marker.step} is kept; each takes {marker.bytes / _GIB:.2f} GiB"
    rewritten = f" (three to go on with other than {marker.sharding.processes} processes)"
    return f"{text}, and the volume must hold two{rewritten if marker.sharding.zero_stage else ''}."


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which the checkpoint was saved."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match.group(1)) if match else -1


def _complete(folder: Path, key: str) -> list[Path]:
    markers = {path: read_marker(path) for path in folder.glob("checkpoint-*") if step_of(path) > 0}
    return [path for path, marker in markers.items() if marker and marker.key == key]


def _remove(checkpoint: Path) -> None:
    """What cannot be deleted stays and does no harm: without the marker it counts as half written."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _synced(path: Path) -> File:
    _sync(path)
    return File(bytes=path.stat().st_size, xxh3=_digest(path))


def _read(path: Path) -> File | None:
    try:
        return File(bytes=path.stat().st_size, xxh3=_digest(path))
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
