"""All processes share the work on a checkpoint, and any number of them resumes with the same losses."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.training.checkpoints import Sharding, newest_complete, read_marker
from finetune_trainer.training.resuming import needs_resharding
from finetune_trainer.training.sharding import longest_wait
from tests.unit.trainer_train.launch.gangs import run_part, run_script, torchrun

_STEPS = 10


@pytest.mark.parametrize(
    ("saved", "now", "expected"),
    [
        (Sharding(2, 0), Sharding(1, 0), False),
        (Sharding(2, 2), Sharding(2, 2), False),
        (Sharding(2, 2), Sharding(1, 2), True),
        (Sharding(1, 3), Sharding(4, 3), True),
    ],
    ids=["replicas fit any number", "the same number", "ZeRO-2 on fewer", "ZeRO-3 on more"],
)
def test_only_shards_for_another_number_are_rewritten(saved: Sharding, now: Sharding, expected: bool) -> None:
    assert needs_resharding(saved, now) is expected


def test_another_zero_stage_is_refused_with_both_numbers_and_a_way_out() -> None:
    text = r"by 4 processes under ZeRO stage 2; 8 processes under stage 3 cannot .* is kept.*zeroStage: 2 on this volume"
    with pytest.raises(UserError, match=text):
        needs_resharding(Sharding(4, 2), Sharding(8, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "stage"),
    [
        pytest.param("LoRA", 0, id="LoRA", marks=pytest.mark.long),
        pytest.param("LoRA", 3, id="LoRA on a sharded base"),
        pytest.param("Full", 2, id="Full ZeRO-2"),
        pytest.param("Full", 3, id="Full ZeRO-3", marks=pytest.mark.long),
    ],
)
def test_two_processes_then_one_then_two_have_the_losses_of_two_throughout(
    run_folder: Path, method: str, stage: int
) -> None:
    whole = run_part(run_folder, 2, method, stage, 99, "whole")
    parts = [
        run_part(run_folder, 2, method, stage, 3, "first"),
        run_part(run_folder, 1, method, stage, 7, "second"),
    ]
    newest = newest_complete(run_folder / "checkpoints", "key")
    assert newest
    marker = read_marker(newest)
    assert marker
    assert (marker.step, marker.sharding) == (7, Sharding(1, stage))
    assert not list((run_folder / "checkpoints").glob("*/*_universal"))
    parts.append(run_part(run_folder, 2, method, stage, 99, "third"))
    assert [part["resumed"] for part in parts] == [0, 3, 7]
    steps = [int(step) for part in parts for step in part["losses"]]
    assert steps == list(range(1, _STEPS + 1))
    together = {step: loss for part in parts for step, loss in part["losses"].items()}
    assert together == pytest.approx(whole["losses"], abs=1e-4)


@pytest.mark.parametrize(
    ("moved", "hours"),
    [(0, 1), (24_000_000, 1), (112_000_000_000, 1.16), (980_000_000_000, 2.36)],
    ids=["nothing", "an adapter", "8B Full", "70B Full"],
)
def test_processes_wait_for_as_long_as_a_save_of_the_planned_size_takes(moved: int, hours: float) -> None:
    assert longest_wait(moved) / timedelta(hours=1) == pytest.approx(hours, abs=0.01)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """What two_savers.py tells, by rank, and the log of both processes."""
    folder = tmp_path_factory.mktemp("shared")
    log = run_script(torchrun(Path(__file__).with_name("two_savers.py"), str(folder)))
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)], log


@pytest.mark.slow
def test_each_process_reads_a_share_of_the_files_on_saving_and_on_resuming(shared: Any) -> None:
    (first, second), _ = shared
    assert [first["saving"], second["saving"]] == [["state-1"], ["state-0", "trainer_state"]]
    assert [first["resuming"], second["resuming"]] == [["state-1"] * 2, ["state-0", "trainer_state"] * 2]


@pytest.mark.slow
def test_a_file_that_only_one_process_found_damaged_is_skipped_by_both_and_said_once(shared: Any) -> None:
    told, log = shared
    assert [(rank["step"], rank["skipped"]) for rank in told] == [(1, ["checkpoint-2"])] * 2
    assert log.count("checkpoint-2 is skipped: state-0 changed since it was written") == 1


@pytest.mark.slow
def test_the_planned_wait_is_that_of_the_group_and_of_those_made_from_it(shared: Any) -> None:
    told, _ = shared
    assert [rank["timeouts"] for rank in told] == [[longest_wait(980 * 10**9).total_seconds()] * 2] * 2


@pytest.mark.slow
def test_a_process_that_ended_is_noticed_long_before_the_planned_wait_is_over(shared: Any) -> None:
    (_, second), _ = shared
    assert re.search("Connection (closed|reset) by peer", second["noticed"])
    assert second["noticed_after"] < 60  # of 6,700
