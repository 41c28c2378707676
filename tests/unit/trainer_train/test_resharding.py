"""Resuming with another number of processes gives the losses of a run that was never stopped."""

from pathlib import Path

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.training.checkpoints import Sharding, newest_complete, read_marker
from finetune_trainer.training.resharding import needs_resharding
from tests.unit.trainer_train.gangs import run_part

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
    [("LoRA", 0), ("LoRA", 3), ("Full", 2), ("Full", 3)],
    ids=["LoRA", "LoRA on a sharded base", "Full ZeRO-2", "Full ZeRO-3"],
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
