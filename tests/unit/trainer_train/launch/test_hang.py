"""What does not go on is ended with its reason, and what is only slow is left alone."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.environment import hang_seconds
from finetune_trainer.errors import Hang, UserError
from finetune_trainer.launch import gang as process_1
from finetune_trainer.launch.heartbeat import Heartbeat, beat, heartbeats, hung, sentence
from finetune_trainer.launch.outcome import WorkerOutcome, recorded
from finetune_trainer.stages import baseline
from finetune_trainer.training.patience import Patience
from tests.unit.trainer_train.launch.gangs import free_port, start

_HANGING = (str(Path(__file__).with_name("hanging_worker.py")),)
_ROWS_REPEATED = 16  # 148 steps
SMALL = Patience(1800, base_bytes=270_000_000, checkpoint_bytes=24_000_000)
LARGE = Patience(1800, 140_000_000_000, 980_000_000_000, processes=64, nodes=8, cuda=True)
MINUTE = 60


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [
        (SMALL.step(2.0, None, 4096), 30),
        (SMALL.step(2.0, 600.0, 4096), 50),
        (SMALL.step(300.0, None, 4096), 100),
        (SMALL.step(None, None, 0), 30),
        (SMALL.step(None, None, 131_072), 118),
        (LARGE.step(None, None, 524_288), 199),
        (LARGE.step(20.0, None, 524_288), 193),
        (LARGE.step(20.0, 300.0, 524_288), 40),
        (SMALL.loading, 30),
        (LARGE.loading, 123),
        (LARGE.resuming, 193),
        (LARGE.rewriting, 438),
        (LARGE.finishing, 123),
        (Patience(7200, 0, 0).loading, 120),
        (Patience(60, 0, 0).loading, 30),
        (Patience(60, 0, 0).step(0.5, None, 1), 1),
    ],
    ids=[
        "a short step has half an hour",
        "and twice what the last checkpoint took",
        "a long step has twenty times what it takes",
        "the first step has time to compile",
        "the first step of a large batch on one core",
        "the first step of 70B Full may save",
        "a step of 70B Full may save",
        "a step of 70B Full may save as long as before",
        "a small base",
        "eight nodes read 140 GB each from one volume",
        "70B Full is resumed",
        "70B Full is rewritten for other processes",
        "70B Full is written",
        "the administrator waits for longer",
        "what happens once has half an hour, whatever the administrator says",
        "the administrator waits for a minute",
    ],
)
def test_what_a_process_does_has_the_time_that_it_may_need(limit: float, minutes: float) -> None:
    assert limit / MINUTE == pytest.approx(minutes, abs=1)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [({}, 1800), ({"FT_HANG_SECONDS": "600"}, 600)],
    ids=["half an hour by default", "the administrator's"],
)
def test_the_operator_says_for_how_long_nothing_may_go_on(environment: dict[str, str], seconds: int) -> None:
    assert hang_seconds(environment) == seconds


def test_a_time_that_is_no_number_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(UserError, match="FT_HANG_SECONDS is 'soon'"):
        hang_seconds({"FT_HANG_SECONDS": "soon"})


IN_TIME = Heartbeat(0, "step 13 of 74", at=100, within=60)
LATE = Heartbeat(1, "step 12 of 74", at=90, within=60)


@pytest.mark.parametrize(
    ("beats", "ended", "found"),
    [
        ([], set(), None),
        ([IN_TIME], set(), None),
        ([IN_TIME, LATE], set(), LATE),
        ([IN_TIME, LATE], {1}, None),
        ([Heartbeat(0, "loading the model", 0, 120), LATE], set(), Heartbeat(0, "loading the model", 0, 120)),
    ],
    ids=[
        "pods that wait for each other have no workers yet",
        "a sign within its time",
        "a sign that is overdue",
        "a worker that has told its outcome",
        "of two the one that is overdue for longer",
    ],
)
def test_a_worker_hangs_when_its_next_sign_is_overdue(
    beats: list[Heartbeat], ended: set[int], found: Heartbeat | None
) -> None:
    assert hung(beats, ended, now=155) == found


def test_a_worker_has_only_its_last_sign(tmp_path: Path) -> None:
    for rank, doing in ((1, "loading the model"), (0, "step 1 of 9"), (1, "step 1 of 9")):
        beat(tmp_path, rank, doing, 60)
    assert [(each.rank, each.doing) for each in heartbeats(tmp_path)] == [
        (0, "step 1 of 9"),
        (1, "step 1 of 9"),
    ]


def test_a_hang_is_told_with_step_and_time() -> None:
    heartbeat = Heartbeat(1, "step 13 of 74", at=100, within=1800, usual=2.1)
    told = sentence(heartbeat, now=1960, today=datetime(2026, 11, 27, 10, 31, tzinfo=UTC))
    assert told.startswith(
        "Training hangs: step 13 of 74 did not end in 31 minutes, since 2026-11-27T10:00:00Z, where a step took "
        "2.1 s before; the pod's log has the stack of every training process."
    )


def test_process_1_records_the_outcome_that_a_hung_worker_cannot(tmp_path: Path) -> None:
    beat(tmp_path, 0, "step 1 of 9", within=3600)
    beat(tmp_path, 1, "step 1 of 9", within=-1)
    process_1._look_for_hang([], [WorkerOutcome(1, "Completed", "")], tmp_path)
    assert recorded(tmp_path) == []
    process_1._look_for_hang([], [], tmp_path)
    [found] = recorded(tmp_path)
    assert (found.rank, found.reason, found.failed) == (1, "Hang", True)


@pytest.mark.slow
def test_a_gang_whose_step_never_ends_is_killed_with_its_stacks_in_the_log(
    train_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_HANG_SECONDS", "5")
    run = train_run("hanging", repeat=_ROWS_REPEATED)
    pod = start(run, free_port(), processes=2, program=_HANGING)
    _, log = pod.communicate()
    assert pod.returncode == 79
    result = json.loads(run.job_path.with_name("termination-0").read_text())
    assert (result["outcome"], result["reason"]) == ("Failed", "Hang")
    # Rank 1 is stuck at the end of step 8 and rank 0 waits for it in step 9; the one overdue for longer is told.
    assert re.search("Training hangs: step [89] of 148 did not end", result["message"])
    stacks = {
        name: line for name in ("stacks-0", "stacks-1") for line in log.splitlines() if f'"{name}:' in line
    }
    assert "torch/distributed" in stacks["stacks-0"]
    assert "hanging_worker.py" in stacks["stacks-1"]


async def test_an_engine_that_answers_nothing_ends_the_stage_as_hung(
    make_run: Any, stand_in: Callable[..., Awaitable[Any]], chat_answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await stand_in(lambda _: chat_answer("right"))
    server.silence = asyncio.Event()
    monkeypatch.setenv("FT_HANG_SECONDS", "1")
    rows = [{"id": "r", "messages": [{"role": "user", "content": "question"}], "reference": "right"}]
    run = make_run("baseline", holdout=rows)
    with pytest.raises(Hang, match="The engine answered nothing for 1 s"):
        await asyncio.to_thread(baseline.run, run.job, run.workspace)
    server.silence.set()
