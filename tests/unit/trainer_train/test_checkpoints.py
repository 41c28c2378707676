"""A checkpoint is complete and intact, or ignored."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis.strategies import dictionaries, integers, randoms, text

from finetune_trainer.training.checkpoints import (
    MARKER,
    Sharding,
    file_sizes,
    kept_after_full_disk,
    make_room,
    mark_complete,
    newest_complete,
    read_marker,
    share,
    write_to_disk,
)
from finetune_trainer.training.resuming import Start, find_start

ALONE = Sharding(1, 0)


def save(folder: Path, step: int, key: str | None) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "global_step" / "state.pt").write_bytes(bytes(range(256)) * 64)
    (path / "latest").write_text("global_step")
    if key:
        mark_complete(path, key, ALONE, write_to_disk(path, file_sizes(path)))
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
    assert (marker.key, marker.step, marker.sharding) == ("mine", 3, ALONE)
    assert marker.files.keys() == {"global_step/state.pt", "latest"}
    assert marker.bytes == 256 * 64 + len("global_step")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"], ids=["empty", "cut", "no object", "no key"])
def test_a_damaged_marker_counts_as_none(tmp_path: Path, text: str) -> None:
    (save(tmp_path, 3, None) / MARKER).write_text(text)
    assert newest_complete(tmp_path, "mine") is None


def test_what_a_killed_attempt_left_is_removed_before_training(tmp_path: Path) -> None:
    complete = save(tmp_path, 3, "mine")
    save(tmp_path, 4, None)
    assert find_start(tmp_path, "mine", 0, ALONE) == Start(complete)
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
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    before, newest = save(tmp_path, 3, "mine"), save(tmp_path, 4, "mine")
    damage(newest)
    start = find_start(tmp_path, "mine", 0, ALONE)
    assert start == Start(before, ("checkpoint-4",))
    assert (start.step, start.message) == (3, "training from step 3; damaged and skipped: checkpoint-4")
    assert list(tmp_path.iterdir()) == [before]


def test_when_all_are_damaged_none_is_left(tmp_path: Path) -> None:
    for step in (3, 4):
        flip_a_bit(save(tmp_path, step, "mine") / "latest")
    start = find_start(tmp_path, "mine", 0, ALONE)
    assert start == Start(None, ("checkpoint-4", "checkpoint-3"))
    assert (start.step, list(tmp_path.iterdir())) == (0, [])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"a": 5, "b": 7, "c": 1}, [["b"], ["a", "c"]]),
        ({"a": 4, "b": 4, "c": 4, "d": 4}, [["a", "c"], ["b", "d"]]),
        ({"a": 9}, [["a"], []]),
        ({}, [[], []]),
    ],
    ids=["the largest file goes first", "equal files in order of their names", "one file", "no file"],
)
def test_two_processes_share_the_files_by_size(sizes: dict[str, int], expected: list[list[str]]) -> None:
    assert [share(sizes, rank, 2) for rank in (0, 1)] == expected


@given(
    sizes=dictionaries(text(max_size=3), integers(0, 10**12), max_size=40),
    processes=integers(1, 16),
    chance=randoms(),
)
def test_every_file_has_one_reader_and_no_reader_has_much_more_than_another(
    sizes: dict[str, int], processes: int, chance: Random
) -> None:
    order = chance.sample(sorted(sizes), len(sizes))  # the order in which a process finds the files
    shares = [share({name: sizes[name] for name in order}, rank, processes) for rank in range(processes)]
    assert shares == [share(sizes, rank, processes) for rank in range(processes)]
    assert sorted(chain.from_iterable(shares)) == sorted(sizes)
    loads = [sum(sizes[name] for name in mine) for mine in shares]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)


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
    said = kept_after_full_disk(tmp_path, "mine")
    assert said == "The checkpoint of step 3 is kept; each takes 0.00 GiB, and the volume must hold two."
    assert list(tmp_path.iterdir()) == [good]


def test_after_a_full_disk_the_room_to_rewrite_shards_is_named_too(tmp_path: Path) -> None:
    mark_complete(save(tmp_path, 3, None), "mine", Sharding(4, 2), {})
    said = kept_after_full_disk(tmp_path, "mine")
    assert said.endswith("the volume must hold two (three to go on with other than 4 processes).")


def test_after_a_full_disk_in_the_first_save_nothing_is_kept(tmp_path: Path) -> None:
    save(tmp_path, 4, None)
    assert kept_after_full_disk(tmp_path, "mine") == "No checkpoint had been saved before."
    assert list(tmp_path.iterdir()) == []
