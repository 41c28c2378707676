"""JSON lines and JSON arrays: what is read, and what is said about what cannot be."""

import io
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import UserError
from finetune_trainer.reading import json_values
from finetune_trainer.reading.json_layout import Layout, find_layout
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
@pytest.mark.parametrize(("kind", "before", "after"), [("jsonl", b"{}\n", b"\n"), ("json", b"[{},", b"]")])
def test_a_right_value_is_read(
    kind: Any, before: bytes, after: bytes, raw: bytes, value: Any, read: Any
) -> None:
    assert read(before + raw + after, kind) == [Line(1, {}), Line(2, value)]


def test_blank_lines_count_and_are_no_records(read: Any) -> None:
    assert read(b'\n{"a": 1}\n \r\n{"a": 2}', "jsonl") == [Line(2, {"a": 1}), Line(4, {"a": 2})]


def test_a_json_file_of_lines_is_read_as_lines(read: Any) -> None:
    assert read(b'\n {"a": 1}\n{"a": 2}\n', "json") == [Line(2, {"a": 1}), Line(3, {"a": 2})]


@pytest.mark.parametrize(
    ("text", "values", "problem"),
    [
        ("[]", [], None),
        (" \n[ \n ] \n", [], None),
        ("[1", [], "is the file cut off?"),
        ("[1, 2", [1], "is the file cut off?"),
        ('[1, "2]', [1], "is the file cut off?"),
        ("[1\n\n2]", [], "Extra data at line 3, column 1 of the row"),
        ("[1}, 2]", [2], "Extra data at column 2"),
    ],
    ids=str,
)
def test_the_elements_of_an_array_are_told_apart(
    text: str, values: list[int], problem: str | None, read: Any
) -> None:
    lines = read(text.encode(), "json")
    assert [line.value for line in lines if not line.problem] == values
    problems = [line.problem for line in lines if line.problem]
    assert all(problem is not None and problem in found for found in problems)
    assert bool(problems) == (problem is not None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "is the file cut off?"),
        ("[1,", "is the file cut off?"),
        ("[1] [2]", "something follows the list that ends in line 1"),
        ("[1]" + " " * 1_000_000 + "x", "something follows the list"),
        ("[,]", "A comma stands before the first row (line 1 of data); remove the comma"),
        ('{"train": [{"a": 1}], "test": [{"a": 2}]}', "more than one list of objects: train, test"),
        ('{"data": [{"a": 1}]', "what follows the list `data` does not close the object"),
    ],
    ids=str,
)
def test_a_file_that_goes_on_after_its_list_is_refused(text: str, problem: str, read: Any) -> None:
    with pytest.raises(UserError) as caught:
        read(text.encode(), "json")
    assert problem in str(caught.value)


ROW = '{"messages": [{"role": "user", "content": "a"}]}'
PRETTY = json.dumps(json.loads(ROW), indent=2)
LAYOUTS: list[tuple[str, str]] = [
    ("lines", f"{ROW}\n{ROW}\n"),
    ("an array on one line", f"[{ROW}, {ROW}]"),
    ("an array with a row on each line", f"[\n{ROW},\n{ROW}\n]\n"),
    ("an array that begins with its first row", f"[{ROW},\n{ROW}]\n"),
    ("a pretty array", json.dumps([json.loads(ROW)] * 2, indent=2)),
    ("pretty objects one after another", f"{PRETTY}\n{PRETTY}\n"),
    ("pretty objects with blank lines between", f"{PRETTY}\n\n{PRETTY}"),
    ("a list under a key", json.dumps({"data": [json.loads(ROW)] * 2})),
    ("a pretty list under a key", json.dumps({"rows": [json.loads(ROW)] * 2}, indent=1)),
    ("a list between other fields", f'{{"v": 1, "info": {{"n": [2]}}, "é": [{ROW}, {ROW}], "tags": ["x"]}}'),
    ("an array after a byte-order mark", f"\ufeff[{ROW}, {ROW}]"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "json"])
@pytest.mark.parametrize("text", [row[1] for row in LAYOUTS], ids=[row[0] for row in LAYOUTS])
def test_a_layout_is_told_by_its_content_whatever_the_name(text: str, kind: Any, read: Any) -> None:
    assert [line.value for line in read(text.encode(), kind)] == [json.loads(ROW)] * 2


ONE_ROW: list[tuple[str, str]] = [
    ("a row on one line", ROW),
    ("a pretty row", PRETTY),
    ("a pretty row of sharegpt", json.dumps({"conversations": [{"from": "human", "value": "a"}]}, indent=2)),
    ("a row whose id comes first", json.dumps({"id": 1, "tools": [{"name": "f"}], "prompt": "a"}, indent=2)),
]  # fmt: skip


@pytest.mark.parametrize("text", [row[1] for row in ONE_ROW], ids=[row[0] for row in ONE_ROW])
def test_the_list_of_messages_of_one_row_is_no_list_of_rows(text: str, read: Any) -> None:
    assert [line.value for line in read(text.encode(), "json")] == [json.loads(text)]


def test_lists_of_objects_in_pretty_rows_are_no_lists_of_rows(read: Any) -> None:
    text = json.dumps({"documents": [{"title": "t"}], "prompt": "a"}, indent=2)
    assert [line.value for line in read(f"{text}\n{text}\n".encode(), "jsonl")] == [json.loads(text)] * 2


def test_lines_of_lists_stay_lines(read: Any) -> None:
    assert [line.value for line in read(b"[1]\n[2]\n", "jsonl")] == [[1], [2]]


def test_a_first_line_that_is_cut_off_leaves_the_others_readable(read: Any) -> None:
    for broken in (b'{"a":', b'{"a": "b', b'{"messages": [{"role": "user"'):
        wrong, good = read(broken + b'\n{"a": 2}\n', "jsonl")
        assert (wrong.number, wrong.value, good) == (1, None, Line(2, {"a": 2}))


COMMAS: list[tuple[str, str, dict[int, str]]] = [
    ("after each line", '{"a": 1},\n{"a": 2},\n', dict.fromkeys((1, 2), "a comma follows the value at column 9; remove the comma")),
    ("before a closing bracket", '{"a": [1,]}\n{"a": 2}\n', {1: "a comma stands before the closing `]` at column 9; remove the comma"}),
    ("before a closing brace", '{"a": 1, }\n{"a": 2}\n', {1: "a comma stands before the closing `}` at column 8; remove the comma"}),
    ("at the end of an array", '[{"a": 1},\n{"a": 2},\n]\n', {2: "a comma too many follows it (line 2 of data); remove the comma"}),
    ("twice in an array", '[{"a": 1},\n,{"a": 2}]', {1: "a comma too many follows it (line 2 of data); remove the comma"}),
    ("within an element", '[{"a": 1,},\n{"a": 2}]', {1: "a comma stands before the closing `}` at column 8; remove the comma"}),
    ("between pretty objects", '{\n"a": 1\n},\n{\n"a": 2\n}\n', {1: "a comma too many follows it (line 3 of data); remove the comma"}),
    ("after pretty objects", '{\n"a": 1\n}\n{\n"a": 2\n},\n', {2: "a comma too many follows it (line 6 of data); remove the comma"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problems"), [row[1:] for row in COMMAS], ids=[row[0] for row in COMMAS])
def test_a_comma_too_many_is_named_with_its_place(text: str, problems: dict[int, str], read: Any) -> None:
    """And no row is told of that is not there."""
    lines = read(text.encode(), "jsonl")
    assert [line.number for line in lines] == [1, 2]
    assert {line.number: line.problem for line in lines if line.problem} == problems
    assert all(line.value == {"a": line.number} for line in lines if not line.problem)


@given(st.binary(max_size=80) | st.text(alphabet='{}[]",: \na1', max_size=60).map(str.encode))
def test_any_beginning_has_a_layout(head: bytes) -> None:
    layout = find_layout(head)
    assert layout.kind != "array" or head[layout.start : layout.start + 1] == b"["


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
        patch.setattr(json_values, "CHUNK_BYTES", chunk)
        lines = list(json_values.split_values(io.BytesIO(text), "x", Layout("array")))
    assert [json.loads(line.raw or b"") for line in lines] == values


def test_records_of_several_files_are_numbered_on(read: Any, tmp_path: Any) -> None:
    (tmp_path / "a").write_text('{"a": 1}\n{"a": 2}\n')
    assert [line.number for line in map(parse_line, read_file(tmp_path / "a", "a.jsonl", first=7))] == [7, 8]


def test_a_name_of_no_kind_is_answered_with_those_that_are_read(tmp_path: Any) -> None:
    with pytest.raises(
        UserError, match=r"train\.txt is not read as data; .*\.jsonl, \.ndjson, \.json, \.csv"
    ):
        list(map(parse_line, read_file(tmp_path / "a", "train.txt")))
