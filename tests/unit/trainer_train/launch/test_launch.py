"""What process 1 of a train pod reads, starts and concludes."""

import errno
import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.container import oom_kills, usable_cores
from finetune_trainer.errors import DiskFull, OutOfMemory, StageError, UserError, cause_of
from finetune_trainer.launch import gang as process_1
from finetune_trainer.launch.outcome import WorkerOutcome, decide, lost, record, recorded
from finetune_trainer.launch.torchrun import command, read_gang, worker_environment


def outcome(reason: str, rank: int = 0) -> WorkerOutcome:
    return WorkerOutcome(rank, reason, f"{reason} of {rank}", {})


CASES = [
    ("all succeeded", [outcome("Completed"), outcome("Completed", 1)], 0, False, False, "Completed"),
    ("one failed with a known reason", [outcome("Unknown"), outcome("Diverged", 1)], 1, False, False, "Diverged"),
    ("a full disk beats the signal", [outcome("Interrupted"), outcome("DiskFull", 1)], 1, True, False, "DiskFull"),
    ("a known reason beats the signal", [outcome("OutOfMemory")], 1, True, False, "OutOfMemory"),
    ("the kernel killed a worker", [outcome("Unknown")], 1, False, True, "OutOfMemory"),
    ("stopped after the checkpoint", [outcome("Interrupted"), outcome("Interrupted", 1)], 0, True, False, "Interrupted"),
    ("another pod was stopped", [outcome("Interrupted")], 0, False, False, "Interrupted"),
    ("stopped before anything was recorded", [], -15, True, False, "Interrupted"),
    ("finished before the signal came through", [outcome("Completed"), outcome("Completed", 1)], -15, True, False, "Completed"),
    ("stopped, and the others lost contact", [outcome("Unknown")], 1, True, False, "Interrupted"),
    ("ended without recording an outcome", [], 1, False, False, "Unknown"),
    ("an unforeseen error", [outcome("Unknown")], 1, False, False, "Unknown"),
    ("success that torchrun denies", [outcome("Completed")], 1, False, False, "Completed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "code", "terminated", "oom", "reason"),
    [case[1:] for case in CASES],
    ids=[c[0] for c in CASES],
)
def test_the_pods_outcome_is_the_most_telling_one(
    outcomes: list[WorkerOutcome], code: int, terminated: bool, oom: bool, reason: str
) -> None:
    processes = max(1, len(outcomes))
    assert decide(outcomes, processes, code, terminated, oom).reason == reason


def test_a_pod_is_not_done_while_one_of_its_processes_was_stopped() -> None:
    found = decide([outcome("Completed")], 2, -15, terminated=True, out_of_memory=False)
    assert found.reason == "Interrupted"


@pytest.mark.parametrize(
    ("outcomes", "running", "expected"),
    [
        ([], 0, False),
        ([], 2, False),
        ([outcome("Completed")], 1, False),
        ([outcome("Interrupted")], 1, False),
        ([outcome("Unknown")], 1, True),
        ([outcome("OutOfMemory")], 2, True),
        ([], 1, True),
        ([outcome("Unknown")], 0, False),
    ],
    ids=[
        "before torchrun has started any",
        "all run",
        "one is done",
        "one has saved and stopped",
        "one failed",
        "one has failed and still ends",
        "one was killed",
        "none is left to wait for",
    ],
)
def test_a_failed_worker_is_noticed_while_another_runs(
    outcomes: list[WorkerOutcome], running: int, expected: bool
) -> None:
    assert lost(outcomes, running, processes=2) is expected


class Torchrun:
    """A torchrun that ends with 0 after some looks at it."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def wait(self, timeout: float) -> int:
        """Its exit code, once it has been looked at often enough."""
        if not self._looks:
            return 0
        self._looks -= 1
        raise subprocess.TimeoutExpired("torchrun", timeout)


@pytest.mark.parametrize(
    ("running", "killed"),
    [([0, 1, 2, 2], []), ([2, 2, 2], []), ([2, 1, 1], [1]), ([1, 1], [1]), ([2, 1, 0], [])],
    ids=[
        "torchrun is starting them, one after the other",
        "all run",
        "one is lost",
        "one is lost before all were seen",
        "one is lost and the other ends by itself",
    ],
)
def test_workers_are_killed_once_two_looks_find_one_of_them_lost(
    running: list[int], killed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, kills = iter(running), []
    monkeypatch.setattr(process_1, "_workers", lambda _: [object()] * next(looks))
    monkeypatch.setattr(process_1, "_kill", lambda workers: kills.append(len(workers)))
    child: Any = Torchrun(len(running))
    assert process_1._wait(child, tmp_path, processes=2) == 0
    assert kills == killed


def test_outcomes_survive_the_way_through_files(tmp_path: Path) -> None:
    outcomes = [WorkerOutcome(0, "Completed", "done", {"loss": 1.5}), outcome("Unknown", 1)]
    for one in reversed(outcomes):
        record(tmp_path, one)
    assert recorded(tmp_path) == outcomes


def caused_by(cause: BaseException) -> RuntimeError:
    error = RuntimeError("the checkpoint could not be saved")
    error.__cause__ = cause
    return error


CAUSES = [
    ("a full disk", OSError(errno.ENOSPC, "No space left on device"), DiskFull),
    ("a quota", OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
    (
        "a full disk behind another error",
        caused_by(OSError(errno.ENOSPC, "No space left on device")),
        DiskFull,
    ),
    ("torch's words for it", RuntimeError("PytorchStreamWriter failed writing file data/0"), DiskFull),
    ("torch's other words for it", RuntimeError("unexpected pos 64 vs 0"), DiskFull),
    ("safetensors' words for it", Exception("I/O error: No space left on device (os error 28)"), DiskFull),
    ("full shared memory", RuntimeError("No space left on device: /dev/shm/nccl-x"), None),
    ("another error of a file", OSError(errno.EACCES, "Permission denied"), None),
    ("host memory", MemoryError(), OutOfMemory),
    ("the GPU's memory", RuntimeError("CUDA out of memory"), OutOfMemory),
    ("an unforeseen error", KeyError("x"), None),
]


@pytest.mark.parametrize(
    ("error", "expected"), [case[1:] for case in CAUSES], ids=[case[0] for case in CAUSES]
)
def test_what_a_library_raises_is_traced_to_its_cause(
    error: BaseException, expected: type[StageError] | None
) -> None:
    assert cause_of(error) is expected


def never() -> int:
    """For a number that is given."""
    raise AssertionError("the job has said how many processes train")


def test_a_pod_that_is_not_told_a_number_of_processes_chooses_it() -> None:
    assert read_gang({}, lambda: 5).processes == 5
    assert read_gang({"FT_PROCESSES": "2"}, never).processes == 2


def test_a_gang_of_two_pods_starts_torchrun_with_static_rendezvous() -> None:
    gang = read_gang(
        {"FT_NODES": "2", "FT_PROCESSES": "4", "JOB_COMPLETION_INDEX": "1", "FT_MASTER_ADDR": "x-0.x"}, never
    )
    line = " ".join(command(gang, Path("/j"), Path("/w"), Path("/o")))
    for part in (
        "--nnodes 2",
        "--nproc-per-node 4",
        "--node-rank 1",
        "--master-addr x-0.x",
        "--max-restarts 0",
    ):
        assert part in line
    assert not gang.first


@pytest.mark.parametrize(
    "environment",
    [
        {"FT_NODES": "2"},
        {"FT_NODES": "two", "FT_MASTER_ADDR": "x"},
        {"FT_NODES": "2", "FT_MASTER_ADDR": "x", "JOB_COMPLETION_INDEX": "2"},
        {"FT_PROCESSES": "0"},
    ],
    ids=["several nodes without an address", "not a number", "rank beyond the nodes", "no process"],
)
def test_an_environment_that_describes_no_gang_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(UserError, match="FT_NODES"):
        read_gang(environment, lambda: 1)


def test_cores_are_shared_out_unless_the_administrator_decides() -> None:
    assert worker_environment({}, processes=2, cores=8)["OMP_NUM_THREADS"] == "4"
    assert worker_environment({}, processes=4, cores=2)["OMP_NUM_THREADS"] == "1"
    assert worker_environment({"OMP_NUM_THREADS": "3"}, processes=2, cores=8)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
    ids=["cgroup v2", "cgroup v1"],
)
def test_the_containers_cpu_limit_counts(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_without_a_limit_all_cores_count(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == usable_cores(tmp_path / "absent")


def test_kills_by_the_kernel_are_counted(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) == 0
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(tmp_path) == 2
