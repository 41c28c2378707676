"""Names, packings and signatures of data files; what is refused before a record is read."""

import bz2
import gzip
import io
import lzma
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finetune_trainer.data.rules import mixed_files
from finetune_trainer.errors import UserError
from finetune_trainer.reading.kinds import FileKind, find_kind
from finetune_trainer.reading.limits import RECORD_BYTES
from finetune_trainer.reading.lines import TOO_LONG, Line, parse_line, split_lines
from finetune_trainer.reading.records import read_file

ROWS = b'{"a": 1}\n{"a": 2}\n'
PACKED = {
    "gz": gzip.compress(ROWS),
    "bz2": bz2.compress(ROWS),
    "xz": lzma.compress(ROWS),
    "zst": pa.Codec("zstd").compress(ROWS, asbytes=True),
}


def _zip(name: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, "x")
    return sink.getvalue()


REFUSED: list[tuple[str, bytes, str]] = [
    ("UTF-16 with a mark", '{"a": 1}\n'.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    ("UTF-16 without a mark", ('{"a": "b"}\n' * 4).encode("utf-16-le"), "UTF-16 text; save it as UTF-8"),
    ("UTF-16, big end first", ('{"a": "b"}\n' * 4).encode("utf-16-be"), "UTF-16 text; save it as UTF-8"),
    ("UTF-32", '{"a": 1}\n'.encode("utf-32"), "UTF-32 text; save it as UTF-8"),
    ("a picture", b"\x89PNG\r\n\x1a\n\x00", "a picture"),
    ("a program", b"\x7fELF\x02\x01\x01", "a program"),
    ("a zip archive", _zip("train.jsonl"), "a zip archive; unpack it"),
    ("an Excel workbook", _zip("[Content_Types].xml"), "an Excel or Word file; export it as CSV"),
    ("a PDF", b"%PDF-1.7\n", "a PDF document"),
    ("gzip under another name", PACKED["gz"], "packed by gzip; name it with .gz"),
    ("bzip2 under another name", PACKED["bz2"], "packed by bzip2"),
    ("zstd under another name", PACKED["zst"], "packed by zstd"),
    ("Parquet under another name", b"PAR1\x15\x04", "a Parquet file; name it .parquet"),
    ("Arrow under another name", b"\xff\xff\xff\xff\x10", "an Arrow file; name it .arrow"),
    ("a login page", b"\n<!DOCTYPE html><html>Sign in", "an HTML page (a login or error page"),
    ("a bare page", b"<html lang='en'>", "an HTML page"),
    ("an S3 error", b'<?xml version="1.0"?><Error>', "an XML document (an error message"),
    ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
    ("NUL bytes", b'{"a": 1}\n\x00\x01\x02', "a binary file (it holds NUL bytes)"),
]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
@pytest.mark.parametrize(("raw", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_no_text_is_called_what_it_is(name: str, raw: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError) as caught:
        list(map(parse_line, read_file(tmp_path / name, name)))
    assert str(caught.value).startswith(f"{name} is ")
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.csv.zst", "x.parquet"])
def test_a_login_page_in_place_of_a_binary_file_is_recognised(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"<!doctype html>")
    with pytest.raises(UserError, match="an HTML page"):
        list(map(parse_line, read_file(tmp_path / name, name)))


@pytest.mark.parametrize("text", ["PAR1,PAR2\n1,2\n", "BZh9,x\n1,2\n", "MZ,x\n1,2\n", "version\nhttps\n"])
def test_a_header_that_resembles_a_signature_is_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)
    assert all(line.problem is None for line in map(parse_line, read_file(tmp_path / "x", "x.csv")))


@pytest.mark.parametrize("extension", PACKED)
def test_packed_files_are_read(extension: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(PACKED[extension] * 2)  # packers append by writing one stream after another
    values = [line.value for line in map(parse_line, read_file(tmp_path / "x", f"x.jsonl.{extension}"))]
    assert values == [{"a": 1}, {"a": 2}] * 2


@pytest.mark.parametrize("extension", PACKED)
@pytest.mark.parametrize("damage", [lambda raw: raw[:-6], lambda raw: raw[:8] + b"\xff" * 9 + raw[17:]])
def test_a_damaged_packed_file_is_refused(extension: str, damage: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(damage(PACKED[extension]))
    with pytest.raises(UserError, match=rf"x\.jsonl\.{extension} is damaged"):
        list(map(parse_line, read_file(tmp_path / "x", f"x.jsonl.{extension}")))


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["gz", "xz", "zst"])
def test_a_bomb_is_refused_in_little_memory(extension: str, tmp_path: Path) -> None:
    zeros = b" " * (400 << 20)
    pack = {
        "gz": gzip.compress,
        "xz": lambda raw: lzma.compress(raw, preset=0),
        "zst": pa.Codec("zstd").compress,
    }
    (tmp_path / "x").write_bytes(memoryview(pack[extension](zeros)))
    del zeros
    tracemalloc.start()
    with pytest.raises(UserError, match="which no data set does"):
        list(map(parse_line, read_file(tmp_path / "x", f"x.jsonl.{extension}")))
    assert tracemalloc.get_traced_memory()[1] < 4 * RECORD_BYTES
    tracemalloc.stop()


class _Endless(io.RawIOBase):
    """`size` letters and a newline, made as they are read, then one good line."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._tail = io.BytesIO(b"\n{}\n")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if not self._left:
            return self._tail.readinto(target)
        size = min(len(target), self._left)
        target[:size] = b"a" * size
        self._left -= size
        return size


def test_a_line_of_two_gigabytes_takes_little_memory_and_time() -> None:
    stream: io.BufferedReader = io.BufferedReader(_Endless(2_000_000_000), 1 << 18)
    tracemalloc.start()
    started = time.monotonic()
    wrong, good = split_lines(stream)
    assert (wrong.problem, good.number, good.raw) == (TOO_LONG, 2, b"{}")
    assert tracemalloc.get_traced_memory()[1] < 4 * RECORD_BYTES
    assert time.monotonic() - started < 30
    tracemalloc.stop()


def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.jsonl cannot be read \(Is a directory\)"):
        list(map(parse_line, read_file(tmp_path, "x.jsonl")))


KINDS: list[tuple[str, FileKind | None]] = [
    ("a.jsonl", FileKind("jsonl")),
    ("A.NDJSON.GZ", FileKind("jsonl", "gzip")),
    ("a.b.json.xz", FileKind("json", "xz")),
    ("a.csv.bz2", FileKind("csv", "bzip2")),
    ("a.parquet", FileKind("parquet")),
    ("data-00000-of-00001.arrow", FileKind("arrow")),
    ("a.parquet.gz", None),
    ("a.gz", None),
    ("README.md", None),
    (".jsonl", None),
    ("jsonl", None),
]


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=[name for name, _ in KINDS])
def test_the_kind_is_told_by_the_name(name: str, kind: FileKind | None) -> None:
    assert find_kind(name) == kind


MIXED: list[tuple[list[str], int, str]] = [
    (["a.jsonl", "b.csv"], 1, "a.jsonl is JSON lines; b.csv is CSV"),
    (["README.md", "a.jsonl", "b.jsonl"], 1, "README.md is no data file; a.jsonl is JSON lines"),
    (["a.json", "b.jsonl", "c.jsonl"], 2, "a.json is JSON; b.jsonl is JSON lines"),
    (["a.txt", "b.md"], 2, "a.txt is no data file"),
]


@pytest.mark.parametrize(("names", "count", "text"), MIXED, ids=[" ".join(row[0]) for row in MIXED])
def test_files_of_several_kinds_are_an_error(names: list[str], count: int, text: str) -> None:
    finding = mixed_files(names)
    assert finding is not None
    assert (finding.number, finding.rule, finding.severity, finding.count) == (
        4,
        "mixed_files",
        "error",
        count,
    )
    assert text in finding.message


@pytest.mark.parametrize(
    "names", [[], ["a.txt"], ["a.jsonl"], ["a.jsonl", "b.ndjson", "c.jsonl.gz"]], ids=str
)
def test_files_of_one_kind_are_no_finding(names: list[str]) -> None:
    assert mixed_files(names) is None


def test_lines_keep_their_numbers_over_a_problem(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"{}\n{\n{}\n")
    first, wrong, last = map(parse_line, read_file(tmp_path / "x", "x.jsonl", first=11))
    assert (first, wrong.number, last) == (Line(11, {}), 12, Line(13, {}))
