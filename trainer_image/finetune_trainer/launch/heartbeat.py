"""Signs of life: what each worker of a pod does and how long it may take for it, in files for process 1."""

import faulthandler
import json
import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

DUMP_STACKS = signal.SIGUSR1


def stacks_on_demand(folder: Path, rank: int) -> None:
    """Let this process write the stacks of its threads into the folder when it gets DUMP_STACKS.

    That works while it waits inside a CUDA call or a collective, where no handler in Python would run.
    """
    file = (folder / f"stacks-{rank}.txt").open("w", encoding="utf-8")
    faulthandler.register(DUMP_STACKS, file, all_threads=True)  # keeps the file open


def stacks(folder: Path) -> dict[str, str]:
    """What was written so far, by the names of the files."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("stacks-*.txt"))}
    return {name: text for name, text in found.items() if text}


@dataclass(frozen=True)
class Heartbeat:
    """What a worker began at the monotonic time `at`, and the seconds within which its next sign is due.

    The clock is that of the machine, so all processes of a pod read the same. `usual` is what a step takes.
    """

    rank: int
    doing: str
    at: float
    within: float
    usual: float | None = None


def beat(folder: Path, rank: int, doing: str, within: float, usual: float | None = None) -> None:
    """Replace the worker's last sign; not brought to the disk, since it is worth nothing after the pod."""
    path = folder / f"heartbeat-{rank}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(Heartbeat(rank, doing, time.monotonic(), within, usual))))
    partial.replace(path)


def heartbeats(folder: Path) -> list[Heartbeat]:
    """The last sign of every worker that has given one, by rank."""
    found = [Heartbeat(**json.loads(path.read_bytes())) for path in folder.glob("heartbeat-*.json")]
    return sorted(found, key=lambda heartbeat: heartbeat.rank)


def hung(beats: Sequence[Heartbeat], ended: Collection[int], now: float) -> Heartbeat | None:
    """The worker that is overdue for longest, of those that have not `ended` (by rank); None if none is."""
    overdue = [each for each in beats if each.rank not in ended and now - each.at > each.within]
    return min(overdue, key=lambda each: each.at + each.within, default=None)


def sentence(heartbeat: Heartbeat, now: float, today: datetime) -> str:
    """That a worker hangs, in what and since when; `now` and `today` are the same moment by either clock."""
    silent = timedelta(seconds=now - heartbeat.at)
    since = (today - silent).strftime("%Y-%m-%dT%H:%M:%SZ")
    usual = f", where a step took {heartbeat.usual:.1f} s before" if heartbeat.usual else ""
    hangs = f"Training hangs: {heartbeat.doing} did not end in {silent.total_seconds() / 60:.0f} minutes"
    return f"{hangs}, since {since}{usual}; the pod's log has the stack of every training process."
