"""What processes leave behind when they are killed: mounts, shims, sockets, records, log links."""

import ctypes
import errno
import os
import re
import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from dev.cluster.failure import ClusterError
from dev.cluster.home import State

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SHIM_SOCKETS = Path("/run/containerd/s")
_LOG_LINKS = Path("/var/log/containers")
_PLUGIN_RESULTS = Path("/var/lib/cni/results")
_DEVICE_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
_SYSTEM = {"log"}
"""Parents that belong to the system even when they are empty."""
_DETACH = 2
_SHIM_SECONDS = 5.0


def clear_after_reboot(state: State) -> None:
    """After a reboot containerd's state speaks of processes and mounts that no longer exist."""
    remembered, now = state.folder / "boot-id", _BOOT.read_text()
    if remembered.exists() and remembered.read_text() != now:
        unmount_below(state.folder)
        for folder in (state.containerd / "state", state.containerd / "runc"):
            shutil.rmtree(folder, ignore_errors=True)
    remembered.write_text(now)


def mounts_below(folder: Path) -> list[Path]:
    """Mount points under the folder, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(_unescape(line.split()[4])) for line in lines]
    below = [point for point in points if folder in point.parents]
    return sorted(below, key=lambda point: len(point.parts), reverse=True)


def unmount_below(folder: Path) -> None:
    """Detach every mount under the folder; ClusterError when one stays, before anyone deletes through it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for point in mounts_below(folder):
        libc.umount2(os.fsencode(point), _DETACH)
    if left := mounts_below(folder):
        raise ClusterError(f"these mounts cannot be detached: {', '.join(map(str, left))}")


def shims(address: Path) -> list[int]:
    """containerd's shims of our socket: they are neither its children nor in the pods' group."""
    processes = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [int(entry.name) for entry in processes if _is_shim(entry, address)]


def stop_shims(address: Path) -> None:
    """Give shims the time to end with their pods, then kill."""
    watches = {pid: watch for pid in shims(address) if (watch := _open(pid)) is not None}
    for watch in watches.values():
        if not _ended(watch):
            signal.pidfd_send_signal(watch, signal.SIGKILL)
            _ended(watch)
        os.close(watch)


def forget_containers(address: Path) -> None:
    """Remove the pods' records and layers from containerd, which keeps the images."""
    ctr = ["ctr", "--address", str(address), "--namespace", "k8s.io", "containers"]
    listed = subprocess.run([*ctr, "ls", "-q"], capture_output=True, text=True, check=False)
    if names := listed.stdout.split():
        subprocess.run([*ctr, "rm", *names], capture_output=True, check=False)


def sweep(state: State) -> None:
    """Files that containerd, kubelet and plugins write at fixed places outside the state folder."""
    for record in (state.containerd / "state").glob("io.containerd.runtime.v2.task/*/*/address"):
        Path(record.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)
    for link in _LOG_LINKS.glob("*.log"):
        if link.is_symlink() and state.folder in link.readlink().parents:
            link.unlink()
    for sandbox in (state.containerd / "root").glob("io.containerd.grpc.v1.cri/sandboxes/*"):
        for result in _PLUGIN_RESULTS.glob(f"*-{sandbox.name}-*"):
            result.unlink()
        shutil.rmtree(sandbox)
    if _DEVICE_SOCKET.is_socket() and not listens(_DEVICE_SOCKET):
        _DEVICE_SOCKET.unlink()
    for place in (_LOG_LINKS, _PLUGIN_RESULTS, _SHIM_SOCKETS, _DEVICE_SOCKET.parent):
        for folder in (place, place.parent):
            if folder.is_dir() and folder.name not in _SYSTEM and not any(folder.iterdir()):
                folder.rmdir()


def listens(path: Path) -> bool:
    """Whether a process accepts connections on a unix socket."""
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(str(path))
        except OSError:
            return False
    return True


def port_in_use(address: str, port: int) -> bool:
    """Whether the port is taken; asked by binding, which sends nothing when the address is not ours yet."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _is_shim(entry: Path, address: Path) -> bool:
    try:
        words = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"containerd-shim" in words[0] and os.fsencode(address) in words


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _ended(watch: int) -> bool:
    poller = select.poll()
    poller.register(watch, select.POLLIN)
    return bool(poller.poll(_SHIM_SECONDS * 1000))


def _unescape(word: str) -> str:
    """mountinfo writes spaces and the like as octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
