"""However and whenever an attempt ends, the next one loses no step that was saved and repeats none."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_trainer.data.prepared import read_prepared
from finetune_trainer.evaluation.document import Curves
from finetune_trainer.training.checkpoints import newest_complete, step_of
from tests.unit.trainer_train.launch.gangs import free_port, losses, run_part, start, train

pytestmark = pytest.mark.slow
_OFTEN = (str(Path(__file__).with_name("frequent_saves.py")),)
_ROWS_REPEATED = 16  # 148 steps
Process = subprocess.Popen[str]


def stop(pod: Process) -> None:
    """As the kubelet does: SIGTERM to process 1."""
    pod.terminate()


def kill_a_worker(pod: Process) -> None:
    """As the kernel does when memory runs out."""
    torchrun = psutil.Process(pod.pid).children()[0]
    random.choice(torchrun.children()).kill()


def evict(pod: Process) -> None:
    """As a lost node does: everything is gone at once."""
    for process in [*psutil.Process(pod.pid).children(recursive=True), pod]:
        process.kill()


def attempt(run: Any, after: int, interrupt: Callable[[Process], None]) -> dict[int, float]:
    """The losses of an attempt that is interrupted when it has logged `after` steps."""
    pod = start(run, free_port(), processes=2, program=_OFTEN)
    assert pod.stderr
    seen: dict[int, float] = {}
    for line in pod.stderr:
        step = losses(iter([line]))
        seen |= step
        if step and len(seen) == after:
            interrupt(pod)
    assert pod.wait() != 0
    return seen


def saved_step(run: Any) -> int:
    prepared = read_prepared(run.workspace)
    assert prepared is not None
    newest = newest_complete(run.workspace.checkpoints, prepared.training_key)
    return step_of(newest) if newest else 0


@pytest.mark.parametrize("seed", range(int(os.environ.get("FINETUNE_TEST_REPEAT", "1"))))
def test_interruptions_of_every_kind_at_random_steps_lose_and_repeat_nothing(
    train_run: Callable[..., Any], seed: int
) -> None:
    run_at_once = train_run("whole", repeat=_ROWS_REPEATED)
    whole = train(run_at_once, free_port(), 2)
    run, chance = train_run("interrupted", repeat=_ROWS_REPEATED), random.Random(seed)
    kinds = [stop, kill_a_worker, evict, chance.choice([stop, kill_a_worker, evict])]
    chance.shuffle(kinds)
    found: dict[int, float] = {}
    for kind in kinds:
        resumed = saved_step(run)
        seen = attempt(run, chance.randint(1, 30), kind)
        assert list(seen) == list(range(resumed + 1, resumed + 1 + len(seen)))
        assert saved_step(run) <= max(seen)
        assert kind is not stop or saved_step(run) == max(seen)
        found |= seen
    resumed = saved_step(run)
    last = train(run, free_port(), 2)
    assert list(last) == list(range(resumed + 1, len(whole) + 1))
    assert found | last == pytest.approx(whole, abs=1e-4)
    stored = json.loads(next(run.workspace.results_dir.glob("train-*.json")).read_text())
    assert (stored["outcome"], stored["summary"]["resumedFromStep"]) == ("Succeeded", resumed)
    kept, expected = (
        Curves.model_validate_json(each.workspace.curves.read_bytes()) for each in (run, run_at_once)
    )
    assert kept.loss == pytest.approx(list(whole.values()), abs=1e-4)
    assert kept.learning_rate == pytest.approx(expected.learning_rate)


def test_a_damaged_checkpoint_is_skipped_and_said(run_folder: Path) -> None:
    whole = run_part(run_folder, 1, "LoRA", 0, 3, "first")
    whole["losses"] |= run_part(run_folder, 1, "LoRA", 0, 7, "second")["losses"]
    checkpoints = run_folder / "checkpoints"
    flip_a_byte(checkpoints / "checkpoint-7")
    third = run_part(run_folder, 1, "LoRA", 0, 7, "third")
    assert (third["resumed"], list(third["losses"])) == (3, ["4", "5", "6", "7"])
    assert third["message"] == "training from step 3; damaged and skipped: checkpoint-7"
    assert whole["losses"] | third["losses"] == pytest.approx(whole["losses"], abs=1e-4)
    for name in ("checkpoint-3", "checkpoint-7"):
        flip_a_byte(checkpoints / name)
    fourth = run_part(run_folder, 1, "LoRA", 0, 7, "fourth")
    assert fourth["resumed"] == 0
    assert fourth["message"] == "training from step 0; damaged and skipped: checkpoint-7, checkpoint-3"
    assert fourth["losses"] == pytest.approx(whole["losses"], abs=1e-4)


def flip_a_byte(checkpoint: Path) -> None:
    state = next(checkpoint.glob("global_step*/*model_states.pt"))
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 0xFF
    state.write_bytes(content)


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Mount a file system of 16 MiB at a folder."""
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        folder.mkdir(parents=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=False)
        if done.returncode != 0:
            pytest.skip("mounting a file system needs root")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("method", ["LoRA", pytest.param("Full", marks=pytest.mark.long)])
def test_a_full_disk_ends_the_run_with_the_last_checkpoint_kept(
    train_run: Callable[..., Any], small_disk: Callable[[Path], None], method: str
) -> None:
    run = train_run("full", method, repeat=_ROWS_REPEATED)
    small_disk(run.workspace.checkpoints)
    pod = start(run, free_port(), processes=2, program=_OFTEN)
    assert pod.stderr
    filler = run.workspace.checkpoints / "filler"
    for line in pod.stderr:
        if losses(iter([line])) and saved_step(run) and not filler.exists():
            fill(filler)
    assert pod.wait() == 74
    result = json.loads(run.job_path.with_name("termination-0").read_text())
    assert result["reason"] == "DiskFull"
    kept = saved_step(run)
    assert f"The checkpoint of step {kept} is kept" in result["message"]
    assert [path.name for path in run.workspace.checkpoints.glob("checkpoint-*")] == [f"checkpoint-{kept}"]
    filler.unlink()
    after = train(run, free_port(), 2)
    assert min(after) == kept + 1


def test_the_signal_is_not_lost_while_the_model_loads(train_run: Callable[..., Any]) -> None:
    run = train_run("early", repeat=_ROWS_REPEATED)
    pod = start(run, free_port(), processes=2, program=_OFTEN)
    assert pod.stderr
    for line in pod.stderr:
        if "started torchrun" in line:
            pod.send_signal(signal.SIGTERM)
    assert pod.wait() == 75
