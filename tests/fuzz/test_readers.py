"""Whatever bytes a data file holds: its records are read or named, or the file is refused in a sentence."""

import bz2
import gzip
import io
import json
import lzma
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from finetune_trainer.errors import UserError
from finetune_trainer.reading.limits import JSON_DEPTH, RECORD_BYTES
from finetune_trainer.reading.lines import Line, parse_line
from finetune_trainer.reading.records import read_file, read_records

ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": 'say "hi"\n'},
            {"role": "assistant", "content": "hé \\ \U0001f600"},
        ]
    },
    {"messages": [{"role": "user", "content": "[{"}, {"role": "assistant", "content": ""}]},
] * 3


def _parquet() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=2, compression="zstd")
    return sink.getvalue()


def _arrow() -> bytes:
    sink, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


FILES: dict[str, bytes] = {
    "x.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "x.json": json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
    "x.csv": b'prompt,messages\na,"[{""role"": ""user""}]"\n"b\nc",\n' * 2,
    "x.parquet": _parquet(),
    "x.arrow": _arrow(),
}
PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.Codec("zstd").compress(raw, asbytes=True),
}
NAMES = [name + end for name in FILES for end in PACK if not (name in ("x.parquet", "x.arrow") and end)]
pytestmark = pytest.mark.slow
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _read_all(records: Iterator[Line]) -> tuple[list[Line], str]:
    """What was read, and the sentence that refused the rest ("" for none)."""
    lines: list[Line] = []
    try:
        lines.extend(records)
    except UserError as error:
        return lines, str(error)
    return lines, ""


def _read(name: str, content: bytes, folder: Path) -> None:
    """Read all; UserError is an answer, and each record has a value or a problem."""
    (folder / "file").write_bytes(content)
    lines, refusal = _read_all(map(parse_line, read_file(folder / "file", name)))
    assert not refusal or name in refusal
    assert [line.number for line in lines] == sorted({line.number for line in lines})
    for line in lines:
        assert line.problem is None or line.value is None
        json.dumps(line.value, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", NAMES)
@MANY
@given(content=st.binary(max_size=300))
@example(content=b"")
@example(content=b"[")
@example(content=b'[" \\')
@example(content=b'"')
@example(content=b"\xef\xbb\xbf")
@example(content=b"\xef\xbb\xbf[1]")
@example(content=b"PAR1")
@example(content=b"PAR1\x15\x00PAR1")
@example(content=b"\xff\xff\xff\xff\xff\xff\xff\x7f")
@example(content=b"ARROW1\x00\x00")
def test_arbitrary_bytes_are_answered(name: str, content: bytes, tmp_path: Path) -> None:
    _read(name, content, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@MANY
@given(data=st.data())
def test_damaged_files_are_answered(name: str, data: st.DataObject, tmp_path: Path) -> None:
    stem, end = next((stem, end) for stem in FILES for end in PACK if stem + end == name)
    packed_first = data.draw(st.booleans(), label="damage after packing")
    content = PACK[end](FILES[stem]) if packed_first else FILES[stem]
    for _ in range(data.draw(st.integers(0, 4), label="damages")):
        content = _damage(content, data)
    _read(name, content if packed_first else PACK[end](content), tmp_path)


def _damage(content: bytes, data: st.DataObject) -> bytes:
    """Replace a few bytes by others; `at` prefers the ends, where headers and footers lie."""
    at = data.draw(st.integers(0, len(content)))
    gone = data.draw(st.integers(0, 6))
    return content[:at] + data.draw(st.binary(max_size=6)) + content[at + gone :]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet='[]{}",:\\ \n\r\ue0001aé\0\ufeff', max_size=60))
def test_text_of_marks_is_answered(kind: Any, text: str) -> None:
    stream: io.BufferedReader = io.BufferedReader(io.BytesIO(text.encode()))  # type: ignore[assignment]
    try:
        lines = list(map(parse_line, read_records(stream, kind, "x")))
    except UserError:
        return
    if kind == "json" and _parses_to_a_list(text):
        assert [line.value for line in lines] == json.loads(text)


def _parses_to_a_list(text: str) -> bool:
    """Whether Python's parser takes it for an array in which no object repeats a key."""
    try:
        return isinstance(json.loads(text, object_pairs_hook=_strict), list)
    except ValueError:
        return False


def _strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


@pytest.mark.parametrize("depth", [JSON_DEPTH + 1, 5_000, 2_000_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_any_depth_is_answered(name: str, opening: bytes, depth: int, tmp_path: Path) -> None:
    text = opening * (min(depth, RECORD_BYTES // len(opening) - 16))
    quoted = b'messages\n"' + text.replace(b'"', b'""') + b'"\n' if name == "x.csv" else text + b"\n"
    _read(name, quoted, tmp_path)


class _Repeated(io.RawIOBase):
    """`start`, then one byte again and again up to `size` bytes, made as they are read."""

    def __init__(self, start: bytes, byte: bytes, size: int) -> None:
        self._start = io.BytesIO(start)
        self._byte = byte
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if size := self._start.readinto(target):
            return size
        size = min(len(target), self._left)
        target[:size] = self._byte * size
        self._left -= size
        return size


@pytest.mark.parametrize(
    ("kind", "start", "byte"),
    [
        ("jsonl", b'{"a": "', b"x"),
        ("json", b'[{"a": "', b"x"),
        ("json", b'[{"a": "', b"\\"),
        ("json", b"[", b"["),
        ("json", b"[", b" "),
        ("json", b"[1]", b" "),
        ("csv", b"a,b\n", b"x"),
        ("csv", b'a,b\n"', b"x"),
        ("csv", b"a,b\n", b","),
    ],
    ids=str,
)
def test_a_record_of_100_megabytes_takes_little_memory(kind: Any, start: bytes, byte: bytes) -> None:
    stream: io.BufferedReader = io.BufferedReader(_Repeated(start, byte, 100_000_000), 1 << 18)
    tracemalloc.start()
    lines, refusal = _read_all(map(parse_line, read_records(stream, kind, "x")))
    assert all(line.problem is not None or line.value == 1 for line in lines)
    assert not refusal or "a record has no end" in refusal or "is the file cut off?" in refusal
    assert tracemalloc.get_traced_memory()[1] < 8 * RECORD_BYTES
    tracemalloc.stop()
