"""Long-running processes known by pid files, which survive the program that started them."""

import hashlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dev.cluster.failure import ClusterError


@dataclass(frozen=True)
class Command:
    """What to run; `files` are the configuration whose change asks for a restart."""

    name: str
    argv: Sequence[str | Path]
    files: Iterable[Path] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    """Whether the process dies with the one that started it (test fixtures)."""

    @property
    def words(self) -> list[str]:
        """The arguments as the kernel takes them."""
        words = [str(word) for word in self.argv]
        return ["setpriv", "--pdeathsig", "KILL", "--", *words] if self.tied else words

    def digest(self) -> str:
        """Over the arguments, the environment and the content of the configuration."""
        total = hashlib.sha256(json.dumps([self.words, dict(self.env)]).encode())
        for path in self.files:
            total.update(path.read_bytes())
        return total.hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """A pid file; `ticks` is the process's start time, so that a reused pid is not mistaken for ours."""

    pid: int
    ticks: int
    digest: str


class Supervisor:
    """Starts, finds and stops the processes of one state folder."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets `pids` and `logs`."""
        self.folder = folder
        self.pids, self.logs = folder / "pids", folder / "logs"

    def start(self, command: Command) -> bool:
        """Run the command unless it already runs exactly so; True when a process was started."""
        digest, record = command.digest(), self.record(command.name)
        if record is not None and record.digest == digest:
            return False
        self.stop([command.name])
        for made in (self.pids, self.logs):
            made.mkdir(parents=True, exist_ok=True)
        with self.log(command.name).open("ab") as out:
            process = subprocess.Popen(
                command.words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **command.env},
                start_new_session=True,
            )
        self._write(command.name, Record(process.pid, start_ticks(process.pid) or 0, digest))
        return True

    def record(self, name: str) -> Record | None:
        """The pid file of a process that is alive, None for one that is not."""
        try:
            record = Record(**json.loads(self._file(name).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return record if start_ticks(record.pid) == record.ticks else None

    def known(self) -> list[str]:
        """Names with a pid file, alive or not."""
        return sorted(path.stem for path in self.pids.glob("*.json"))

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.logs / f"{name}.log"

    def stop(self, names: Sequence[str], grace: float = 10.0) -> None:
        """SIGTERM to all named processes, SIGKILL to those still alive after `grace` seconds."""
        records = {name: record for name in names if (record := self.record(name))}
        watches = {name: watch for name, record in records.items() if (watch := _watch(record))}
        try:
            for watch in watches.values():
                _send(watch, signal.SIGTERM)
            for watch in watches.values():
                if not _ended(watch, grace):
                    _send(watch, signal.SIGKILL)
                    _ended(watch, grace)
        finally:
            for watch in watches.values():
                os.close(watch)
        for name in names:
            self._file(name).unlink(missing_ok=True)

    def require_alive(self, name: str) -> None:
        """ClusterError with the end of the log when the process is gone."""
        if self.record(name) is None:
            raise ClusterError(f"{name} ended unexpectedly; {self.explain(name)}")

    def explain(self, name: str) -> str:
        """Where the log is and how it ends."""
        path = self.log(name)
        lines = path.read_text(errors="replace").splitlines()[-12:] if path.exists() else []
        return "\n".join([f"its log is {path} and ends:", *lines])

    def _file(self, name: str) -> Path:
        return self.pids / f"{name}.json"

    def _write(self, name: str, record: Record) -> None:
        temporary = self._file(name).with_suffix(".new")
        temporary.write_text(json.dumps(record.__dict__))
        temporary.replace(self._file(name))


def start_ticks(pid: int) -> int | None:
    """The start time of a live process in clock ticks since boot; None for none and for zombies."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rsplit(")", 1)[1].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _watch(record: Record) -> int | None:
    """A pidfd: it stays true to one process even when the pid is used again."""
    try:
        watch = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    if start_ticks(record.pid) == record.ticks:
        return watch
    os.close(watch)
    return None


def _send(watch: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(watch, number)
    except ProcessLookupError:
        return


def _ended(watch: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(watch, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
