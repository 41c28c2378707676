"""JSON lines and JSON arrays: what is read, and what is said about what cannot be."""

import io
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import UserError
from finetune_trainer.reading import json_array
from finetune_trainer.reading.limits import JSON_DEPTH, RECORD_BYTES
from finetune_trainer.reading.lines import Line, parse_line
from finetune_trainer.reading.records import read_file

DEEPEST = "[" * JSON_DEPTH + "]" * JSON_DEPTH
PROBLEMS: list[tuple[str, bytes, str]] = [
    ("a half-written object", b'{"a":', "Expecting value at column 6"),
    ("two values", b"{} {}", "Extra data at column 4"),
    ("NaN", b'{"a": NaN}', "NaN is not a JSON number"),
    ("minus Infinity", b'{"a": -Infinity}', "-Infinity is not a JSON number"),
    ("a number that overflows", b'{"a": 1e999}', "1e999 is too large for a number"),
    ("a number of many digits", b"[" + b"1" * 5000 + b"]", "1111111111... is too large for a number"),
    ("a key that appears twice", b'{"a": {"b": 1, "b": 2}}', "the key 'b' appears twice in one object"),
    ("a lone high surrogate", b'{"a": ["\\ud800"]}', "\\ud800 is half of a character"),
    ("a lone low surrogate in a key", b'{"\\udc00": 1}', "\\udc00 is half of a character"),
    ("one level too deep", b"[" + DEEPEST.encode() + b"]", f"nests deeper than {JSON_DEPTH} levels"),
    ("a hundred thousand levels", b'{"a":' * 100_000, f"nests deeper than {JSON_DEPTH} levels"),
    ("Latin-1", '{"a": "é"}'.encode("latin-1"), "byte 8 is not UTF-8 (Latin-1"),
    ("a byte-order mark", b"\xef\xbb\xbf{}", "byte-order mark; save the file as UTF-8 without one"),
    ("a raw control character", b'{"a": "\x01"}', "Invalid control character"),
    ("a record that is too long", b'"' + b"a" * RECORD_BYTES + b'"', "longer than 8 MiB; split it"),
]
UNPAIRED = ("a half-written object", "a hundred thousand levels")
VALUES: list[tuple[str, bytes, Any]] = [
    ("the deepest value", DEEPEST.encode(), json.loads(DEEPEST)),
    ("brackets in a string", b'["' + b"[" * 500 + b'"]', ["[" * 500]),
    ("brackets after an escaped quote", b'["\\"' + b"{" * 500 + b'"]', ['"' + "{" * 500]),
    ("a whole character of two escapes", b'["\\ud83d\\ude00"]', ["\U0001f600"]),
    ("an escaped backslash before a u", b'["\\\\ud800"]', ["\\ud800"]),
    ("a carriage return at the end", b"[1]\r", [1]),
    (
        "a wide object",
        json.dumps({str(n): [n] for n in range(200)}).encode(),
        {str(n): [n] for n in range(200)},
    ),
]


@pytest.mark.parametrize(("raw", "problem"), [row[1:] for row in PROBLEMS], ids=[row[0] for row in PROBLEMS])
def test_a_wrong_line_is_named_and_the_others_are_read(raw: bytes, problem: str, read: Any) -> None:
    first, wrong, last = read(b"{}\n" + raw + b'\n{"z": 1}', "jsonl")
    assert (first, last) == (Line(1, {}), Line(3, {"z": 1}))
    assert (wrong.number, wrong.value) == (2, None)
    assert problem in wrong.problem


@pytest.mark.parametrize(
    ("raw", "problem"),
    [row[1:] for row in PROBLEMS if row[0] not in UNPAIRED],
    ids=[row[0] for row in PROBLEMS if row[0] not in UNPAIRED],
)
def test_a_wrong_element_is_named_and_the_others_are_read(raw: bytes, problem: str, read: Any) -> None:
    first, wrong, last = read(b"[{},\n" + raw + b' , {"z": 1}\n]\n', "json")
    assert (first, last) == (Line(1, {}), Line(3, {"z": 1}))
    assert (wrong.number, wrong.value) == (2, None)
    assert problem in wrong.problem


@pytest.mark.parametrize(("raw", "value"), [row[1:] for row in VALUES], ids=[row[0] for row in VALUES])
@pytest.mark.parametrize(("kind", "before", "after"), [("jsonl", b"", b"\n"), ("json", b"[", b"]")])
def test_a_right_value_is_read(
    kind: Any, before: bytes, after: bytes, raw: bytes, value: Any, read: Any
) -> None:
    assert read(before + raw + after, kind) == [Line(1, value)]


def test_blank_lines_count_and_are_no_records(read: Any) -> None:
    assert read(b'\n{"a": 1}\n \r\n{"a": 2}', "jsonl") == [Line(2, {"a": 1}), Line(4, {"a": 2})]


def test_a_json_file_of_lines_is_read_as_lines(read: Any) -> None:
    assert read(b'\n {"a": 1}\n{"a": 2}\n', "json") == [Line(2, {"a": 1}), Line(3, {"a": 2})]


@pytest.mark.parametrize(
    ("text", "values", "problem"),
    [
        ("[]", [], None),
        (" \n[ \n ] \n", [], None),
        ("[1", [], "is it cut off?"),
        ("[1, 2", [1], "is it cut off?"),
        ('[1, "2]', [1], "is it cut off?"),
        ("[", [], "is it cut off?"),
        ("[1,]", [1], "Expecting value at column 1"),
        ("[,]", [], "Expecting value at column 1"),
        ("[1] [2]", [1], "something follows the end of the array"),
        ("[1]" + " " * 1_000_000 + "x", [1], "something follows the end of the array"),
        ("[1}, 2]", [2], "Extra data at column 2"),
        ("[1\n\n2]", [], "Extra data at line 3, column 1"),
    ],
    ids=str,
)  # fmt: skip
def test_the_frame_of_an_array_is_checked(
    text: str, values: list[int], problem: str | None, read: Any
) -> None:
    lines = read(text.encode(), "json")
    assert [line.value for line in lines if not line.problem] == values
    problems = [line.problem for line in lines if line.problem]
    assert all(problem is not None and problem in found for found in problems)
    assert bool(problems) == (problem is not None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text(alphabet='a"\\[]{},é\n'),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='"\\]}k'), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(JSON, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]))
@example(["\\", '"'], 1, None)
def test_an_array_is_split_as_a_parser_does_wherever_the_chunks_end(
    values: list[Any], chunk: int, indent: int | None
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK_BYTES", chunk)
        lines = list(json_array.split_array(io.BytesIO(text)))
    assert [json.loads(line.raw or b"") for line in lines] == values


def test_records_of_several_files_are_numbered_on(read: Any, tmp_path: Any) -> None:
    (tmp_path / "a").write_text('{"a": 1}\n{"a": 2}\n')
    assert [line.number for line in map(parse_line, read_file(tmp_path / "a", "a.jsonl", first=7))] == [7, 8]


def test_a_name_of_no_kind_is_answered_with_those_that_are_read(tmp_path: Any) -> None:
    with pytest.raises(
        UserError, match=r"train\.txt is not read as data; .*\.jsonl, \.ndjson, \.json, \.csv"
    ):
        list(map(parse_line, read_file(tmp_path / "a", "train.txt")))
