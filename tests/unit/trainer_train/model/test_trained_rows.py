"""The file of rows that prepare writes and every process of a training opens."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from finetune_trainer.trained_rows import as_batch, map_rows, row_lengths, writing_rows
from finetune_trainer.training.core import load_rows

ROWS = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
    {"input_ids": [2**31 - 1], "labels": [-100]},
    {"input_ids": [8, 9], "labels": [8, 9]},
]
BATCHES = {
    "all rows in one batch": [ROWS],
    "a batch for each row": [[row] for row in ROWS],
    "a batch without rows between others": [ROWS[:1], [], ROWS[1:]],
    "arrays of numpy": [[{name: np.array(ids, np.int32) for name, ids in row.items()} for row in ROWS]],
}


def write(path: Path, batches: list[list[dict[str, list[int]]]]) -> Path:
    with writing_rows(path) as append:
        for batch in batches:
            append(as_batch(batch))
    return path


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES.keys())
def test_training_gets_the_rows_in_their_order_however_they_were_written(
    batches: list[list[dict[str, list[int]]]], tmp_path: Path
) -> None:
    rows = load_rows(write(tmp_path / "rows", batches))
    assert [rows[place] for place in range(len(rows))] == ROWS
    assert row_lengths(rows.data) == [3, 1, 2]


def test_a_file_without_rows_can_be_opened(tmp_path: Path) -> None:
    rows = map_rows(write(tmp_path / "rows", []))
    assert (len(rows), row_lengths(rows)) == (0, [])


def test_opening_the_rows_brings_none_of_them_into_memory(tmp_path: Path) -> None:
    row = {"input_ids": [1] * 1000, "labels": [1] * 1000}
    path = write(tmp_path / "rows", [[row] * 500] * 5)
    tenth = path.stat().st_size // 10
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        rows = load_rows(path)
        assert sum(row_lengths(rows.data)) == 2_500_000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < tenth
    assert pa.total_allocated_bytes() - before < tenth


def test_rows_that_are_refused_on_the_way_leave_the_file_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "rows", [ROWS[:1]])
    broken = [ROWS, [{"input_ids": [2**31], "labels": [1]}]]
    with pytest.raises(pa.ArrowInvalid):
        write(path, broken)
    assert map_rows(path).to_pylist() == ROWS[:1]
    assert [item.name for item in tmp_path.iterdir()] == ["rows"]
