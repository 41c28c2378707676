"""CSV, Parquet and Arrow: rows as the objects that JSON lines would have held."""

import io
import json
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from finetune_trainer.errors import UserError
from finetune_trainer.reading.limits import RECORD_BYTES
from finetune_trainer.reading.lines import Line

CSV: list[tuple[str, str, list[Any]]] = [
    ("cells", "prompt,completion\na,b\nc,d\n", [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]),
    ("an empty cell is an absent key", "prompt,system\na,\n", [{"prompt": "a"}]),
    ("line ends and commas in quotes", 'prompt\n"a,\n""b"""\n', [{"prompt": 'a,\n"b"'}]),
    ("a file saved by Excel", "\ufeffprompt,completion\r\na,b\r\n", [{"prompt": "a", "completion": "b"}]),
    ("a quoted header after a byte-order mark", '\ufeff"prompt","completion"\na,b\n', [{"prompt": "a", "completion": "b"}]),
    ("blanks after commas", 'prompt, completion\n"a", "b, c"\n"d",  e\n', [{"prompt": "a", "completion": "b, c"}, {"prompt": "d", "completion": "e"}]),
    ("blanks within quotes", 'prompt, completion\n" a ", " b "\n', [{"prompt": " a ", "completion": " b "}]),
    ("blank lines are no records", "a\n\n1\n\n2\n", [{"a": "1"}, {"a": "2"}]),
    ("only a header", "prompt,completion\n", []),
    ("nothing", "", []),
    ("JSON in a cell of messages", 'messages\n"[{""role"": ""user""}]"\n', [{"messages": [{"role": "user"}]}]),
    ("JSON in another cell stays text", 'prompt\n"[1]"\n', [{"prompt": "[1]"}]),
]  # fmt: skip
CSV_PROBLEMS: list[tuple[str, bytes, str]] = [
    ("too few cells", b"x", "it has 1 cell where the header names 2 columns"),
    ("too many cells", b"x,y,z", "it has 3 cells where the header names 2 columns"),
    ("wrong JSON in a cell of tools", b"x,[", "the JSON in column `tools` is wrong: Expecting value"),
    ("NaN in a cell of tools", b"x,[NaN]", "NaN is not a JSON number"),
    ("Latin-1", "é,[]".encode("latin-1"), "it is not UTF-8 (Latin-1 or Windows-1252?)"),
    ("text after a quoted cell", b'"a"b,[]', "something follows the closing quotation mark of a cell"),
    ("a blank after a quoted cell", b'"a" ,[]', "something follows the closing quotation mark of a cell"),
]
CSV_REFUSED: list[tuple[str, bytes, str]] = [
    ("semicolons", b"prompt;completion\na;b\n", "data separates its columns by semicolons; save it with commas"),
    ("tabs", b"prompt\tcompletion\na\tb\n", "separates its columns by tabs"),
    ("a column without a name", b"prompt,,x\n", "column 2 has no name"),
    ("two columns of one name", b"a,b,a\n", "two columns are named 'a'"),
    ("a header that is not UTF-8", "é\n".encode("latin-1"), "the header cannot be read: it is not UTF-8"),
    ("a line that is too long", b"a\n" + b"x" * (RECORD_BYTES + 2), "a record has no end"),
    ("a quote that is never closed", b'a\n"' + b"x\n" * (RECORD_BYTES // 2), "a record has no end"),
    ("one record of many long cells", b'a,b,c\n' + b'"x\n' + b"y" * (RECORD_BYTES // 2) + b'",' * 1 + b'"x\n' + b"y" * (RECORD_BYTES // 2) + b'",c\n', "a record has no end"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "values"), [row[1:] for row in CSV], ids=[row[0] for row in CSV])
def test_csv_records_are_read(text: str, values: list[Any], read: Any) -> None:
    assert read(text.encode(), "csv") == [Line(n, value) for n, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("raw", "problem"), [row[1:] for row in CSV_PROBLEMS], ids=[row[0] for row in CSV_PROBLEMS]
)
def test_a_wrong_csv_record_is_named_and_the_others_are_read(raw: bytes, problem: str, read: Any) -> None:
    first, wrong, last = read(b"prompt,tools\na,[]\n" + raw + b"\nb,[]\n", "csv")
    assert (first.value, last) == ({"prompt": "a", "tools": []}, Line(3, {"prompt": "b", "tools": []}))
    assert (wrong.number, wrong.value) == (2, None)
    assert problem in wrong.problem


@pytest.mark.parametrize(
    ("raw", "text"), [row[1:] for row in CSV_REFUSED], ids=[row[0] for row in CSV_REFUSED]
)
def test_an_unusable_csv_file_is_refused(raw: bytes, text: str, read: Any) -> None:
    with pytest.raises(UserError) as caught:
        read(raw, "csv")
    assert text in str(caught.value)


def test_a_quote_left_open_at_the_end_of_a_csv_file_is_named(read: Any) -> None:
    good, wrong = read(b'a\nx\n"y\nz\n', "csv")
    assert (good.value, wrong.number) == ({"a": "x"}, 2)
    assert "quotation marks are not paired" in wrong.problem


def _parquet(rows: list[dict[str, Any]], schema: Any = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), sink, **options)
    return sink.getvalue()


def test_parquet_rows_are_plain_values_over_all_row_groups(read: Any) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{n}"}], "weight": 0.5} for n in range(300)]
    content = _parquet(rows, row_group_size=70, compression="zstd")
    assert read(content, "parquet") == [Line(n, row) for n, row in enumerate(rows, start=1)]


def test_a_parquet_null_is_an_absent_key_at_any_depth(read: Any) -> None:
    rows = [{"a": [{"x": 1, "y": None}], "b": None}, {"a": None, "b": 2}]
    assert [line.value for line in read(_parquet(rows), "parquet")] == [{"a": [{"x": 1}]}, {"b": 2}]


def test_parquet_types_that_json_lacks_become_text_or_a_map_an_object(read: Any) -> None:
    schema = pa.schema(
        {"day": pa.date32(), "price": pa.decimal128(5, 2), "map": pa.map_(pa.string(), pa.int64())}
    )
    content = _parquet([{"day": date(2026, 1, 2), "price": Decimal("1.50"), "map": [("k", 1)]}], schema)
    assert read(content, "parquet")[0].value == {"day": "2026-01-02", "price": "1.50", "map": {"k": 1}}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"a": float("nan")}, "column `a`: nan is not a JSON number"),
        (
            {"a": {"bytes": b"x"}},
            "column `a`: it holds raw bytes, and pictures and sounds are not trained; remove",
        ),
        ({"a": "x" * (RECORD_BYTES + 1)}, "longer than 8 MiB"),
    ],
    ids=["not a number", "bytes", "too long"],
)
def test_a_parquet_row_that_json_cannot_hold_is_named(row: Any, problem: str, read: Any) -> None:
    good, wrong = read(_parquet([{"a": None}, row]), "parquet")
    assert (good.value, wrong.number) == ({}, 2)
    assert problem in wrong.problem


def test_a_parquet_file_that_expands_beyond_measure_is_refused(read: Any) -> None:
    value = "x" * (RECORD_BYTES // 2)
    table = pa.table(
        {"a": pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), pa.array([value]))}
    )
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd", store_schema=False)
    assert len(sink.getvalue()) < 10_000
    with pytest.raises(UserError, match="which no data set does"):
        read(sink.getvalue(), "parquet")


def test_a_parquet_file_that_is_cut_off_is_refused(read: Any) -> None:
    content = _parquet([{"a": "b"}])
    with pytest.raises(UserError, match="data cannot be read as Parquet"):
        read(content[: len(content) // 2], "parquet")


def _arrow(rows: list[dict[str, Any]], *, as_stream: bool) -> bytes:
    sink, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with (ipc.new_stream if as_stream else ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return sink.getvalue()


@pytest.mark.parametrize("as_stream", [True, False], ids=["as save_to_disk writes it", "as a file"])
def test_arrow_rows_are_plain_values_over_all_batches(as_stream: bool, read: Any) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{n}"}], "weight": 0.5} for n in range(250)]
    content = _arrow(rows, as_stream=as_stream)
    assert read(content, "arrow") == [Line(n, row) for n, row in enumerate(rows, start=1)]


def test_an_arrow_file_that_is_cut_off_is_refused(read: Any) -> None:
    content = _arrow([{"a": "b" * 1000}], as_stream=True)
    with pytest.raises(UserError, match="data cannot be read as Arrow"):
        read(content[: len(content) // 2], "arrow")


def test_json_columns_of_parquet_are_read_as_json_at_any_depth(read: Any) -> None:
    """`List(Json())`, which the datasets library recommends for calls of tools."""
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"n": 1}}}]}
    schema = pa.schema({
        "messages": pa.list_(pa.json_()), "meta": pa.json_(), "tools": pa.list_(pa.struct({"parameters": pa.json_()})),
    })  # fmt: skip
    storage = pa.schema({
        "messages": pa.list_(pa.string()), "meta": pa.string(),
        "tools": pa.list_(pa.struct({"parameters": pa.string()})),
    })  # fmt: skip
    row = {"messages": [json.dumps(turn)], "meta": "[1]", "tools": [{"parameters": '{"type": "object"}'}]}
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([row], schema=storage).cast(schema), sink)
    expected = {"messages": [turn], "meta": [1], "tools": [{"parameters": {"type": "object"}}]}
    assert read(sink.getvalue(), "parquet") == [Line(1, expected)]


def test_wrong_json_in_a_column_of_parquet_is_named_with_the_column(read: Any) -> None:
    sink = io.BytesIO()
    parquet.write_table(pa.table({"meta": pa.array(['{"a": 1,}']).cast(pa.json_())}), sink)
    (wrong,) = read(sink.getvalue(), "parquet")
    assert (
        wrong.problem == "column `meta`: a comma stands before the closing `}` at column 8; remove the comma"
    )
