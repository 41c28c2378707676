"""Progress over HTTP, and the numbers behind it."""

import json
import time
import urllib.error
import urllib.request

import pytest

from finetune_trainer.progress import Progress, ProgressServer


def get(port: int | None, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_the_document_has_the_shape_of_the_contract() -> None:
    with ProgressServer("train", port=0) as server:
        server.update(step=12, total_steps=74, loss=1.31, tokens_per_second=290.04, eta_seconds=210.4)
        server.update(checkpoint_seconds=2.04, checkpoint_step=6, step_seconds=2.1404, message="training")
        server.update(step_timestamp_seconds=1_795_776_097.4)
        assert json.loads(get(server.port, "/progress")) == {
            "schemaVersion": 1, "stage": "train", "step": 12, "totalSteps": 74, "fraction": 0.1622, "loss": 1.31,
            "tokensPerSecond": 290.0, "etaSeconds": 210, "checkpointSeconds": 2.0, "checkpointStep": 6,
            "stepSeconds": 2.14, "steppedAt": "2026-11-27T10:41:37Z", "judgeCost": None, "candidate": None,
            "message": "training",
        }  # fmt: skip


def test_when_the_last_step_ended_is_known_only_after_a_step() -> None:
    server = ProgressServer("train", port=0)
    assert server.progress.to_json()["steppedAt"] is None
    before = time.time()
    server.stepped(step=1)
    assert before <= (server.progress.step_timestamp_seconds or 0) <= time.time()


def test_metrics_leave_out_what_is_unknown() -> None:
    text = Progress("train", step=3).to_metrics().decode()
    assert 'finetune_step{stage="train"} 3.0' in text
    assert "finetune_loss" not in text


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None], ids=["nan", "infinite", "unknown"])
def test_a_number_that_json_lacks_is_null(loss: float | None) -> None:
    assert json.loads(json.dumps(Progress("train", loss=loss).to_json(), allow_nan=False))["loss"] is None


def test_other_paths_are_not_found() -> None:
    with ProgressServer("train", port=0) as server, pytest.raises(urllib.error.HTTPError, match="404"):
        get(server.port, "/secret")


def test_a_taken_port_does_not_stop_the_stage() -> None:
    with ProgressServer("train", port=0) as first, ProgressServer("train", port=first.port) as second:
        second.update(step=1)
        assert second.port is None
