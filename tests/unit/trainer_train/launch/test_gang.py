"""Process 1 of a train pod with real processes: torchrun, and workers that fail in different ways."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.launch import gang as process_1
from finetune_trainer.launch.torchrun import Gang
from finetune_trainer.workspace import Workspace
from tests.unit.trainer_train.launch.gangs import run_script, torchrun

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


# The two ranks pretend to have used 100 and 200 bytes of their GPUs.
PEAK = """
import os, sys
from pathlib import Path
import torch
from finetune_trainer.launch.worker import end
from finetune_trainer.training.core import _peak_bytes

rank = int(os.environ["RANK"])
torch.distributed.init_process_group("gloo")
torch.cuda.max_memory_allocated = lambda: 100 * (rank + 1)
(Path(sys.argv[1]) / f"peak-{rank}").write_text(str(_peak_bytes(torch.device("cpu"))))
end(0)
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
    monkeypatch.setattr(process_1, "command", lambda *_: torchrun(worker, str(tmp_path), how))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    outcome = process_1._supervise(Gang(1, 2, 0, "127.0.0.1"), tmp_path, Workspace(tmp_path), tmp_path)
    # About 3 s, most of which is the end of torchrun; by itself torchrun would wait for 30 s.
    assert time.time() - float((tmp_path / "failed").read_text()) < 20
    assert outcome.reason == reason


def test_the_recorded_peak_is_the_highest_of_all_ranks(tmp_path: Path) -> None:
    script = tmp_path / "peak.py"
    script.write_text(PEAK)
    run_script(torchrun(script, str(tmp_path)))
    assert [(tmp_path / f"peak-{rank}").read_text() for rank in (0, 1)] == ["200", "200"]
