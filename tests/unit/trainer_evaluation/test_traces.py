"""Traces: every answer in both files, whatever it holds, in bounded memory."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.evaluation.pairs import Pair
from finetune_trainer.evaluation.traces import JSONL, PARQUET, SCHEMA, write_traces
from tests.unit.trainer_evaluation.builders import answers, graded_row, pair, question, stored

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def read_lines(folder: Path) -> list[dict[str, object]]:
    """The traces of the JSONL file."""
    return [json.loads(line) for line in (folder / JSONL).open(encoding="utf-8")]


def test_each_row_has_a_trace_of_each_model_in_the_order_of_the_hold_out(tmp_path: Path) -> None:
    write_traces(answers([pair("a", 0.0, 1.0), pair("b", None, 0.5, output=None)]), tmp_path)
    lines = read_lines(tmp_path)
    assert [(line["id"], line["model"], line["score"]) for line in lines] == [
        ("a", "base", 0.0), ("a", "tuned", 1.0), ("b", "base", None), ("b", "tuned", 0.5),
    ]  # fmt: skip
    assert lines[0] == {
        "questions": "holdout", "arm": "base", "id": "a", "model": "base", "group": "g1", "prompt": [{"role": "user", "content": "What?"}], "tools": None,
        "reference": "this", "output": "that", "problem": None, "finish": "stop", "tokens": 3, "seconds": 0.25,
        "score": 0.0, "passed": False, "reason": "differs",
        "grades": [
            {"grader": "exact", "score": 0.0, "passed": False, "reason": "differs"},
            {"grader": "other", "score": 1.0, "passed": True, "reason": ""},
        ],
    }  # fmt: skip
    assert (lines[3]["output"], lines[3]["problem"]) == (None, "the engine refused it")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
def test_both_files_say_the_same_of_any_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("traces")
    rows = [
        Pair(
            question(str(place), asked), graded_row(str(place), 0.0, said), graded_row(str(place), 1.0, said)
        )
        for place, (asked, said) in enumerate(texts)
    ]
    write_traces(answers(stored(folder, rows)), folder)
    table = pq.read_table(folder / PARQUET)
    assert table.schema == SCHEMA
    cells = [
        {**row, "prompt": json.loads(row["prompt"]), "tools": row["tools"] and json.loads(row["tools"])}
        for row in table.to_pylist()
    ]
    assert cells == read_lines(folder)
    assert len(cells) == 2 * len(texts)


def test_rows_of_another_hold_out_are_not_mixed_up(tmp_path: Path) -> None:
    rows = [pair("a", 0.0, 1.0), Pair(question("b"), graded_row("c", 0.0), graded_row("b", 1.0))]
    with pytest.raises(ValueError, match="row b are those of another row"):
        write_traces(answers(stored(tmp_path, rows)), tmp_path / "traces")
    assert list((tmp_path / "traces").iterdir()) == []


def test_memory_is_that_of_a_batch_however_many_rows_of_100_kb_there_are(tmp_path: Path) -> None:
    def rows() -> Iterator[Pair]:
        for place in range(400):
            text = f"{place:06} " * 14_300
            yield Pair(
                question(str(place), text),
                graded_row(str(place), 0.0, text),
                graded_row(str(place), 1.0, text),
            )

    tracemalloc.start()
    try:
        write_traces(answers(rows()), tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / JSONL).stat().st_size > 128 << 20
    assert peak < 64 << 20
