"""A checkpoint is either complete or ignored."""

from pathlib import Path

import pytest

from finetune_trainer.training.checkpoints import (
    MARKER,
    mark_complete,
    newest_complete,
    remove_incomplete,
    remove_others,
)


def save(folder: Path, step: int, key: str | None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "state").write_text("x")
    if key:
        mark_complete(path, key)
    return path


def test_the_newest_complete_checkpoint_of_this_input_is_taken(tmp_path: Path) -> None:
    save(tmp_path, 9, "mine")
    newest = save(tmp_path, 10, "mine")
    save(tmp_path, 11, None)
    save(tmp_path, 12, "other")
    assert newest_complete(tmp_path, "mine") == newest


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"], ids=["empty", "cut", "no object", "no key"])
def test_a_damaged_marker_counts_as_none(tmp_path: Path, text: str) -> None:
    (save(tmp_path, 3, None) / MARKER).write_text(text)
    assert newest_complete(tmp_path, "mine") is None


def test_what_a_killed_attempt_left_is_removed_before_training(tmp_path: Path) -> None:
    complete = save(tmp_path, 3, "mine")
    save(tmp_path, 4, None)
    remove_incomplete(tmp_path, "mine")
    assert list(tmp_path.iterdir()) == [complete]


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    save(tmp_path, 3, "mine")
    keep = save(tmp_path, 4, "mine")
    remove_others(tmp_path, keep)
    assert list(tmp_path.iterdir()) == [keep]


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "absent", "mine") is None
