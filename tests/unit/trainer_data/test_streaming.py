"""A data set is examined chunk by chunk, and the answer does not depend on the chunks or the processes."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data import load as loading
from finetune_trainer.data import survey as surveying
from finetune_trainer.data import workers
from finetune_trainer.data.formats import Row
from finetune_trainer.data.load import Loaded, load_files
from finetune_trainer.data.spool import Spool, SpoolWriter, pack, unpack
from finetune_trainer.data.structure import examine
from finetune_trainer.data.survey import Survey, Target, survey
from finetune_trainer.errors import UserError
from finetune_trainer.reading.lines import Line
from finetune_trainer.report.duplicates import count_duplicates
from finetune_trainer.sources.located import locate_local

texts = st.text(alphabet=st.characters(), max_size=20)
TURN = {"role": "user", "content": "a"}


def data_file(folder: Path, count: int, **changes: Any) -> Path:
    """Rows of which every seventh is another one's copy and every eleventh is not sound."""
    path = folder / "rows.jsonl"
    rows = [
        {"prompt": f"what is the word number {n - n % 7}", "completion": f"{n % 3} apples"}
        for n in range(count)
    ]
    broken = [{"prompt": "x"} if n % 11 == 5 else row for n, row in enumerate(rows)]
    path.write_text("".join(json.dumps({**row, **changes}) + "\n" for row in broken))
    return path


def loaded(path: Path, spool: Path) -> Loaded:
    return load_files("rows", locate_local(path, "train"), "train", spool, lambda *_: None)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few rows, examined by two processes however small the data is."""
    monkeypatch.setattr(loading, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(surveying, "_CHUNK_ROWS", 5)
    monkeypatch.setattr(workers, "WORTH_BYTES", 0)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)


def test_processes_and_chunks_change_no_finding(
    tmp_path: Path, tiny_base: Path, request: pytest.FixtureRequest
) -> None:
    path = data_file(tmp_path, 60)
    whole = look(loaded(path, tmp_path / "whole"), tiny_base)
    request.getfixturevalue("one_by_one")
    parts = look(loaded(path, tmp_path / "parts"), tiny_base)
    assert parts == whole
    assert whole[0]["rows"] == 60 - 5


def look(data: Loaded, base: Path) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
    """Everything that is said about a data set, with the rows that are trained."""
    batches: list[pa.RecordBatch] = []
    found: Survey = survey(data.rows, [], Target(base, 64, batches.append), lambda *_: None)
    assert found.tokens is not None
    counts = {"rows": len(data.rows), "count": data.count, "digest": data.digest, "files": data.files}
    findings = [item.to_json() for item in data.findings]
    tokens = [found.tokens.tokens.tolist(), found.tokens.trained.tolist(), found.tokens.tallies]
    return (
        counts,
        pa.Table.from_batches(batches).to_pylist(),
        (findings, tokens, count_duplicates(found.facts, found.near)),
    )


def test_held_out_files_of_a_folder_are_told_and_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, count in (("train", 3), ("valid", 5), ("test", 7)):
        data_file(folder, count).rename(folder / f"{name}.jsonl")
    read = loaded(folder, tmp_path / "spool")
    assert (read.files, read.count) == ({"train.jsonl": 3}, 3)
    told = next(item for item in read.findings if item.rule == "unread_files")
    assert told.severity == "info"
    assert told.message == (
        "Of rows is read: train.jsonl; not read: test.jsonl, valid.jsonl. Name in the source what else to read."
    )


def test_a_split_in_a_folder_of_its_own_is_told_with_its_folder(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 5)):
        (tmp_path / "rows" / split).mkdir(parents=True)
        data_file(tmp_path / "rows" / split, count)
    read = loaded(tmp_path / "rows", tmp_path / "spool")
    assert read.files == {"train/rows.jsonl": 3}
    told = next(item for item in read.findings if item.rule == "unread_files")
    assert "is read: train/rows.jsonl; not read: test/." in told.message


@pytest.mark.parametrize(
    ("size", "cores", "gib", "processes"),
    [
        (1 << 20, 64, 64, 1),
        (1 << 30, 4, 64, 4),
        (1 << 30, 64, 64, 16),
        (1 << 30, 64, 4, 8),
        (1 << 30, 64, 0.1, 1),
    ],
    ids=["little data", "few cores", "many cores", "many cores and little memory", "hardly any memory"],
)
def test_there_are_as_many_processes_as_cores_and_memory_hold(
    size: int, cores: int, gib: float, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    monkeypatch.setattr(workers, "usable_memory", lambda: int(gib * 2**30))
    assert workers.worth(size) == processes


def test_an_error_of_the_reader_ends_the_work_of_all_processes(tmp_path: Path, one_by_one: None) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\n" + "a,b\n" * 50 + '"' + "x" * (9 << 20))
    with pytest.raises(UserError, match="has no end"):
        loaded(tmp_path / "rows.csv", tmp_path / "spool")


def test_a_process_that_is_killed_is_an_error_and_no_hang(one_by_one: None) -> None:
    with pytest.raises(UserError, match="was killed, most likely for memory"):
        list(workers.each(_die, _nothing, range(3), 1))


def _nothing() -> None:
    return None


def _die(_state: None, chunk: int) -> int:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return chunk


@given(texts, texts, st.none() | texts, st.none() | texts, st.integers(1, 10**9))
def test_a_packed_row_is_the_row(
    name: str, content: str, group: str | None, text: str | None, number: int
) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": {}}}]}
    row = Row(number, name, ({"role": "user", "content": content}, call), text, group, ({"name": content},))
    assert pack(row).count(b"\n") == 1
    assert unpack(pack(row)) == row


def spooled(rows: list[Row], path: Path) -> Spool:
    with SpoolWriter(path) as writer:
        writer.write([pack(row) for row in rows])
    return writer.spool()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_rows_are_read_back_by_place(tmp_path: Path, count: int) -> None:
    rows = [Row(n, str(n), ({**TURN, "content": "x" * n},)) for n in range(1, count + 1)]
    spool = spooled(rows, tmp_path / "rows")
    assert (len(spool), list(spool), [spool(place) for place in range(count)]) == (count, rows, rows)
    assert spool.rows(1, 3) == rows[1:3] if count > 3 else True


def test_a_chunk_has_at_least_one_row_and_not_more_than_its_bytes(tmp_path: Path) -> None:
    spool = spooled([Row(n, "", ({**TURN, "content": "x" * 100},)) for n in range(10)], tmp_path / "rows")
    size = spool.size // 10
    assert [spool.fitting(0, most, bytes_) for most, bytes_ in ((3, 10**6), (100, 3 * size), (100, 1))] == [
        3,
        3,
        1,
    ]
    assert spool.fitting(9, 100, 10**6) == 10


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([TURN, {"prompt": "a", "completion": "b"}, {"messages": []}, 3, None])),
    st.data(),
)
def test_what_is_found_in_parts_is_what_is_found_in_the_whole(values: list[Any], data: st.DataObject) -> None:
    lines = [Line(number, value) for number, value in enumerate(values, start=1)]
    cut = data.draw(st.integers(0, len(lines)))
    whole, rows = examine(lines, "train")
    first, earlier = examine(lines[:cut], "train")
    second, later = examine(lines[cut:], "train")
    assert (first + second).findings() == whole.findings()
    assert earlier + later == rows
