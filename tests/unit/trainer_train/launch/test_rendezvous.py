"""Pods of a gang that do not meet, or lose one of them: real torchrun, each pod a process of this machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_trainer.launch.torchrun import Gang, missing_peers
from tests.unit.trainer_train.launch.gangs import free_port, losses, start

_ROWS_REPEATED = 16  # 148 steps


def result(run: Any, rank: int) -> dict[str, Any]:
    """What a pod left as its termination message."""
    document: dict[str, Any] = json.loads(run.job_path.with_name(f"termination-{rank}").read_text())
    return document


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "told"),
    [
        (0, "Only 1 of 2 training pods met within 2 s (unschedulableDeadlineSeconds)"),
        (1, "Training pod 2 of 2 could not reach the first one within 2 s (unschedulableDeadlineSeconds)"),
    ],
    ids=["only the first pod came", "the first pod did not come"],
)
def test_a_pod_that_waits_in_vain_says_how_many_came(
    train_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rank: int, told: str
) -> None:
    monkeypatch.setenv("FT_RENDEZVOUS_SECONDS", "2")
    run = train_run("alone")
    pod = start(run, free_port(), nodes=2, rank=rank)
    pod.communicate()
    assert pod.returncode == 80
    assert (result(run, rank)["outcome"], result(run, rank)["reason"]) == ("Failed", "PeersMissing")
    assert result(run, rank)["message"].startswith(told)


@pytest.mark.slow
def test_a_pod_that_is_stopped_while_it_waits_for_its_peers_ends_at_once_as_interrupted(
    train_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGLEVEL", "INFO")  # torchrun then says that it waits
    run = train_run("stopped")
    pod = start(run, free_port(), nodes=2)
    assert pod.stderr
    for line in pod.stderr:
        if "Rendezvous'ing" in line:
            pod.terminate()
    assert pod.wait() == 75
    assert result(run, 0)["reason"] == "Interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1], ids=["the first pod", "the second pod"])
def test_the_pod_that_is_left_when_another_is_lost_in_training_blames_no_input(
    train_run: Callable[..., Any], lost: int
) -> None:
    run, port = train_run("halved", repeat=_ROWS_REPEATED), free_port()
    pods = [start(run, port, nodes=2, rank=rank) for rank in (0, 1)]
    logged = pods[0].stderr
    assert logged
    next(line for line in logged if losses(iter([line])))
    for process in [*psutil.Process(pods[lost].pid).children(recursive=True), pods[lost]]:
        process.kill()
    left = 1 - lost
    pods[left].communicate()
    pods[lost].communicate()
    assert pods[left].returncode == 1
    assert (result(run, left)["outcome"], result(run, left)["reason"]) == ("Failed", "Unknown")
    assert "lost contact with another training process" in result(run, left)["message"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        '{"message": "exit code 1"}',
        '{"message": {"message": "DistStoreError: wait timeout after 300000ms, keys: /done"}}',
        '{"message": {"message": "DistNetworkError: Connection reset by peer"}}',
    ],
    ids=[
        "no error of torchrun",
        "an empty file",
        "another document",
        "another shape of message",
        "a pod that was lost in training",
        "a connection that broke",
    ],
)
def test_another_end_of_torchrun_is_no_missing_peer(tmp_path: Path, content: str | None) -> None:
    error = tmp_path / "torchrun.json"
    if content is not None:
        error.write_text(content)
    assert missing_peers(error, Gang(2, 1, 0, "first")) is None
