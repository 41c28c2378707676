"""A checkpoint is complete and intact, or ignored."""

from pathlib import Path

import pytest

from finetune_trainer.training.checkpoints import (
    MARKER,
    Sharding,
    kept_after_full_disk,
    make_room,
    mark_complete,
    newest_complete,
    read_marker,
    remove_unusable,
)


def save(folder: Path, step: int, key: str | None) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "global_step" / "state.pt").write_bytes(bytes(range(256)) * 64)
    (path / "latest").write_text("global_step")
    if key:
        mark_complete(path, key, Sharding(2, 2))
    return path


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_complete_checkpoint_of_this_input_is_taken(tmp_path: Path) -> None:
    save(tmp_path, 9, "mine")
    newest = save(tmp_path, 10, "mine")
    save(tmp_path, 11, None)
    save(tmp_path, 12, "other")
    assert newest_complete(tmp_path, "mine") == newest


def test_the_marker_says_what_was_saved_and_how(tmp_path: Path) -> None:
    marker = read_marker(save(tmp_path, 3, "mine"))
    assert marker
    assert (marker.key, marker.step, marker.sharding) == ("mine", 3, Sharding(2, 2))
    assert marker.files.keys() == {"global_step/state.pt", "latest"}
    assert marker.bytes == 256 * 64 + len("global_step")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"], ids=["empty", "cut", "no object", "no key"])
def test_a_damaged_marker_counts_as_none(tmp_path: Path, text: str) -> None:
    (save(tmp_path, 3, None) / MARKER).write_text(text)
    assert newest_complete(tmp_path, "mine") is None


def test_what_a_killed_attempt_left_is_removed_before_training(tmp_path: Path) -> None:
    complete = save(tmp_path, 3, "mine")
    save(tmp_path, 4, None)
    assert remove_unusable(tmp_path, "mine") == []
    assert list(tmp_path.iterdir()) == [complete]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip_a_bit(path / "global_step" / "state.pt"),
        lambda path: flip_a_bit(path / "latest"),
        lambda path: (path / "global_step" / "state.pt").write_bytes(b""),
        lambda path: (path / "latest").unlink(),
    ],
    ids=["a flipped bit in the state", "a flipped bit in a small file", "an empty file", "a missing file"],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, damage: object) -> None:
    before, newest = save(tmp_path, 3, "mine"), save(tmp_path, 4, "mine")
    damage(newest)  # type: ignore[operator]
    assert remove_unusable(tmp_path, "mine") == ["checkpoint-4"]
    assert newest_complete(tmp_path, "mine") == before


def test_when_all_are_damaged_none_is_left(tmp_path: Path) -> None:
    for step in (3, 4):
        flip_a_bit(save(tmp_path, step, "mine") / "latest")
    assert remove_unusable(tmp_path, "mine") == ["checkpoint-4", "checkpoint-3"]
    assert newest_complete(tmp_path, "mine") is None


def test_only_the_newest_complete_one_stays_while_another_is_written(tmp_path: Path) -> None:
    save(tmp_path, 3, "mine")
    newest = save(tmp_path, 4, "mine")
    save(tmp_path, 5, None)
    make_room(tmp_path, "mine")
    assert list(tmp_path.iterdir()) == [newest]


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "absent", "mine") is None


def test_after_a_full_disk_the_half_written_one_goes_and_the_last_good_one_is_named(tmp_path: Path) -> None:
    good = save(tmp_path, 3, "mine")
    save(tmp_path, 4, None)
    text = kept_after_full_disk(tmp_path, "mine")
    assert text.startswith("The checkpoint of step 3 is kept; each takes 0.00 GiB")
    assert list(tmp_path.iterdir()) == [good]


def test_after_a_full_disk_in_the_first_save_nothing_is_kept(tmp_path: Path) -> None:
    save(tmp_path, 4, None)
    assert kept_after_full_disk(tmp_path, "mine") == "No checkpoint had been saved before."
    assert list(tmp_path.iterdir()) == []
