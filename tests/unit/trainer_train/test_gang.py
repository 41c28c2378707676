"""Process 1 of a train pod with real processes: torchrun, and workers that fail in different ways."""

import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.launch import gang as process_1
from finetune_trainer.launch.torchrun import Gang
from finetune_trainer.workspace import Workspace

pytestmark = pytest.mark.slow

# Rank 1 cannot react to SIGTERM, like a process that waits for a failed peer inside a CUDA call.
WORKER = """
import os, signal, sys, time
from pathlib import Path
from finetune_trainer.launch.outcome import WorkerOutcome, record

folder, how = Path(sys.argv[1]), sys.argv[2]
if os.environ["RANK"] == "1":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "ready").touch()
    while True:
        signal.pause()
while not (folder / "ready").exists():
    os.sched_yield()
(folder / "failed").write_text(str(time.time()))
if how == "records":
    record(folder, WorkerOutcome(0, "OutOfMemory", "no memory"))
    os._exit(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def sigterm() -> Iterator[None]:
    """process 1 takes over SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize(
    ("how", "reason"),
    [("records", "OutOfMemory"), ("is killed", "Unknown")],
    ids=["a worker records why it failed", "a worker is killed"],
)
def test_a_failed_worker_ends_the_pod_within_seconds_whatever_the_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "0"]
    line += ["--master-port", str(port), str(worker), str(tmp_path), how]
    monkeypatch.setattr(process_1, "command", lambda *_: line)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    outcome = process_1._supervise(Gang(1, 2, 0, "127.0.0.1"), tmp_path, Workspace(tmp_path), tmp_path)
    assert time.time() - float((tmp_path / "failed").read_text()) < 5
    assert outcome.reason == reason
