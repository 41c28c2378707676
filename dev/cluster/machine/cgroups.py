"""The control group that holds all pods of this cluster, so that they can be found and stopped."""

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from dev.cluster.failure import ClusterError
from dev.cluster.process import start_ticks

ROOT = "finetune-dev"
_MOUNT = Path("/sys/fs/cgroup")
_STOP_SECONDS = 10.0
_ROUNDS = 5


def hierarchies() -> list[Path]:
    """The mounted hierarchies: one per controller with version 1, a single one with version 2."""
    if (_MOUNT / "cgroup.controllers").exists():
        return [_MOUNT]
    return sorted(path for path in _MOUNT.iterdir() if path.is_dir() and not path.is_symlink())


def make() -> None:
    """Make the group in every hierarchy; the kubelet insists that it exists."""
    for hierarchy in hierarchies():
        group = hierarchy / ROOT
        if group.exists():
            continue
        group.mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):
            # With version 1 a new set is empty and takes no process until it is told what it may use.
            if (group / name).exists() and not (hierarchy / "cgroup.controllers").exists():
                (group / name).write_text((hierarchy / name).read_text())


def processes() -> set[int]:
    """Every live process in the group or below; groups that vanish meanwhile hold none."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / ROOT):
            found |= {int(word) for word in _read(Path(folder) / "cgroup.procs").split()}
    return {pid for pid in found if pid and start_ticks(pid) is not None}


def kill() -> None:
    """SIGKILL everything in the group, again for what was forked meanwhile; ClusterError when some stay."""
    for _ in range(_ROUNDS):
        found = processes()
        if not found:
            return
        for watch in list(_watches(found)):
            _kill(watch)
    raise ClusterError(f"processes of pods do not end: {sorted(processes())}")


def remove() -> None:
    """Remove the empty groups, the deepest first."""
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / ROOT, topdown=False):
            Path(folder).rmdir()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _watches(pids: set[int]) -> Iterator[int]:
    for pid in pids:
        try:
            yield os.pidfd_open(pid)
        except ProcessLookupError:
            continue


def _kill(watch: int) -> None:
    try:
        signal.pidfd_send_signal(watch, signal.SIGKILL)
    except ProcessLookupError:
        pass
    else:
        poller = select.poll()
        poller.register(watch, select.POLLIN)
        poller.poll(_STOP_SECONDS * 1000)
    finally:
        os.close(watch)
