"""What a grader's container may write, and what becomes of it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.container_graders import results as container_results
from finetune_trainer.container_graders.results import LONGEST_LINE, read_results
from finetune_trainer.grading import Grade

IDS = ("1", "2")


def read(tmp_path: Path, *lines: Any) -> container_results.Said:
    """The results that these lines are: bytes as they are, values as JSON."""
    path = tmp_path / "results.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return read_results(path, IDS)


GOOD = [
    pytest.param({"id": "1", "score": 1}, Grade(1.0, True, ""), id="full marks"),
    pytest.param({"id": "1", "score": 0.5, "reason": "dull"}, Grade(0.5, False, "dull"), id="half of them"),
    pytest.param({"id": "1", "score": 0.8, "pass": True}, Grade(0.8, True, ""), id="a pass with less"),
    pytest.param({"id": "1", "score": 0, "more": [1]}, Grade(0.0, False, ""), id="a key that nobody knows"),
    pytest.param(
        {"id": "1", "score": None, "reason": "too short to say"},
        Grade(None, None, "too short to say"),
        id="a row that it cannot judge",
    ),
]


@pytest.mark.parametrize(("line", "grade"), GOOD)
def test_a_line_grades_its_row(tmp_path: Path, line: dict[str, Any], grade: Grade) -> None:
    said = read(tmp_path, line)
    assert said.of("1") == grade
    assert said.of("2") == Grade(None, None, "its container wrote no line about it")
    assert said.warnings == ()


WRONG = [
    pytest.param([{"id": "1"}], "no `score` that is a number", id="no score"),
    pytest.param([{"id": "1", "score": None}], "no `score` that is a number", id="no score and no reason"),
    pytest.param([{"id": "1", "score": True}], "no `score` that is a number", id="a truth for a score"),
    pytest.param([{"id": "1", "score": "1"}], "no `score` that is a number", id="a text for a score"),
    pytest.param([{"id": "1", "score": 1.01}], "not between 0 and 1", id="more than full marks"),
    pytest.param([{"id": "1", "score": -0.1}], "not between 0 and 1", id="less than nothing"),
    pytest.param([b'{"id": "1", "score": NaN}'], "not between 0 and 1", id="no number"),
    pytest.param([b'{"id": "1", "score": 1e999}'], "not between 0 and 1", id="infinity"),
    pytest.param([b'{"id": "1", "score": 1' + b"0" * 400 + b"}"], "not between 0 and 1", id="a huge number"),
    pytest.param([{"id": "1", "score": 1, "pass": "yes"}], "neither true nor false", id="a text for a pass"),
    pytest.param([{"id": "1", "score": 1, "reason": 3}], "`reason` is no text", id="a number for a reason"),
    pytest.param([{"id": "1", "score": 1}, {"id": "1", "score": 1}], "graded twice", id="the same id twice"),
    pytest.param([{"id": "1", "score": 1}] * 3, "graded twice", id="the same id three times"),
    pytest.param([b"oops"], "line 1: it is no JSON", id="no JSON"),
    pytest.param([b"\xff\xfe"], "line 1: it is no JSON", id="no UTF-8"),
    pytest.param([b"[" * 50_000], "line 1: it is no JSON", id="brackets without an end"),
    pytest.param([["1", 1]], "line 1: it is no JSON object", id="a list"),
    pytest.param([{"id": 1, "score": 1}], "line 1: it has no `id` that is a text", id="a number for an id"),
    pytest.param([b'{"id": "1", "score": 1, "reason": "' + b"a" * LONGEST_LINE + b'"}'],
                 "line 1: it is longer than 64 KiB", id="a line that is too long"),
    pytest.param([{"id": "3", "score": 1}], "1 line with an id that was not asked (line 1: 3)", id="an unknown id"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "reason"), WRONG)
def test_what_is_wrong_leaves_its_row_ungraded_and_no_other(
    tmp_path: Path, lines: list[Any], reason: str
) -> None:
    said = read(tmp_path, *lines, b"", {"id": "2", "score": 1})
    assert said.of("1").score is None
    assert reason in said.of("1").reason
    assert said.of("2") == Grade(1.0, True, "")


def test_lines_that_are_of_no_row_are_told(tmp_path: Path) -> None:
    said = read(tmp_path, b"?", b"?", {"id": "x\n", "score": 1}, {"id": "1", "score": 1})
    assert said.warnings == (
        "2 lines cannot be read (line 1: it is no JSON)",
        "1 line with an id that was not asked (line 3: x\N{REPLACEMENT CHARACTER})",
    )


def test_no_file_a_link_a_pipe_and_a_folder_grade_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"id": "1", "score": 1}\n')
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("missing", "link", "pipe", "folder"):
        said = read_results(tmp_path / name, IDS)
        assert said.of("1").score is None
        assert "its container left no results.jsonl that can be read" in said.of("1").reason


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with path.open("wb") as file:
        file.truncate(container_results.MOST_BYTES + 1)
    assert "larger than 64 MiB" in read_results(path, IDS).of("1").reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ENTRIES = st.fixed_dictionaries(
    {}, optional={"id": st.sampled_from(["1", "2", "3"]) | JSON, "score": JSON, "pass": JSON, "reason": JSON}
)


@given(st.lists(st.binary(max_size=40) | (ENTRIES | JSON).map(lambda value: json.dumps(value).encode())))
def test_no_content_ends_the_reading_or_grades_beyond_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-results.jsonl"
    path.write_bytes(b"\n".join(lines))
    said = read_results(path, IDS)
    for name in IDS:
        grade = said.of(name)
        assert grade.score is None or 0 <= grade.score <= 1
        assert grade.score is not None or grade.reason
        assert grade.score is None or json.dumps(name).encode() in path.read_bytes()
