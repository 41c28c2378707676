"""What names a training: its checkpoints are resumed only for the same one."""

from typing import Any

import pytest

from finetune_trainer.data.prepared import Prepared

SUMMARY: dict[str, Any] = {"method": "LoRA", "training": {"epochs": 3}, "lora": {"rank": 16}}
PREPARED: dict[str, Any] = {
    "spec_digest": f"sha256:{'0' * 64}", "files": {"train.arrow": "a", "holdout.jsonl": "b"}, "summary": SUMMARY,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"spec_digest": f"sha256:{'1' * 64}"},
        {"files": {"train.arrow": "c", "holdout.jsonl": "b"}},
        {"summary": SUMMARY | {"method": "QLoRA"}},
        {"summary": SUMMARY | {"training": {"epochs": 2}}},
        {"summary": SUMMARY | {"lora": {"rank": 8}}},
    ],
    ids=["another spec", "other rows", "the fallback method", "other settings", "another adapter"],
)
def test_what_training_learns_from_changes_its_key(changed: dict[str, Any]) -> None:
    assert Prepared(**PREPARED | changed).training_key != Prepared(**PREPARED).training_key


def test_where_the_work_runs_does_not_change_the_key() -> None:
    summary = SUMMARY | {"memory": {"peakGiB": 9.0}, "estimate": {"hours": 1.0}}
    assert Prepared(**PREPARED | {"summary": summary}).training_key == Prepared(**PREPARED).training_key
