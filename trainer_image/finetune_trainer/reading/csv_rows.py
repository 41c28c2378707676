"""CSV with a header row: each record becomes an object of its cells."""

import codecs
import csv
from collections.abc import Iterator
from itertools import count
from typing import Any, BinaryIO

from finetune_trainer.errors import UserError
from finetune_trainer.reading.limits import RECORD_BYTES
from finetune_trainer.reading.lines import TOO_LONG, Line
from finetune_trainer.reading.strict_json import parse_json
from finetune_trainer.words import plural

# What CSV cannot nest is written as JSON text in a cell.
_JSON_CELLS = ("messages", "conversations", "tools", "functions")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_csv(stream: BinaryIO, name: str, first: int = 1) -> Iterator[Line]:
    """The records after the header, numbered from `first`; an empty cell is an absent key.

    Blanks between a comma and a cell are not part of the cell, as some programs write them; those within
    quotation marks are.
    UserError if the header is unusable or a record has no end within the limit: what follows is lost then.
    """
    csv.field_size_limit(RECORD_BYTES)
    texts = _Texts(stream, name)
    reader = csv.reader(texts, strict=True, skipinitialspace=True)
    header = _header(reader, texts, name)
    if not header:
        return
    numbers = count(first)
    while (cells := _next_record(reader, texts)) is not None:
        if cells == []:
            continue
        problem = cells if isinstance(cells, str) else None
        number = next(numbers)
        yield Line(number, problem=problem) if problem else _line(number, header, list(cells))


class _Texts:
    """The lines of a CSV file as text, and what was wrong with them since the last record."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._bytes = 0
        self._problem: str | None = None

    def __iter__(self) -> "_Texts":
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(RECORD_BYTES + 1)
        self._bytes += len(raw)
        if self._bytes > RECORD_BYTES:
            raise UserError(f"{self._name}: a record has no end: {TOO_LONG}, or close its quotation mark.")
        if not raw:
            raise StopIteration
        return self._decoded(raw)

    def take_problem(self) -> str | None:
        """What was wrong since the last call."""
        problem, self._problem, self._bytes = self._problem, None, 0
        return problem

    def _decoded(self, raw: bytes) -> str:
        if b"\0" in raw:
            self._problem = "it holds a NUL character; save the file as text"
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            # The record goes on in other lines, so its text is needed although it is refused.
            self._problem = "it is not UTF-8 (Latin-1 or Windows-1252?); save the file as UTF-8"
            return raw.decode("utf-8", errors="replace")


def _next_record(reader: Iterator[list[str]], texts: _Texts) -> list[str] | str | None:
    """The cells, or what is wrong with them as a clause; None at the end."""
    try:
        cells = next(reader, None)
    except csv.Error as error:
        texts.take_problem()
        if "expected after" in str(error):
            return "something follows the closing quotation mark of a cell; double those within a cell"
        return f"its quotation marks are not paired ({error}); double them within a cell"
    return texts.take_problem() or cells


def _header(reader: Iterator[list[str]], texts: _Texts, name: str) -> list[str]:
    cells = _next_record(reader, texts)
    if isinstance(cells, str):
        raise UserError(f"{name}: the header cannot be read: {cells}.")
    header = [cell.strip() for cell in cells or []]
    if header:
        header[0] = header[0].removeprefix(codecs.BOM_UTF8.decode()).strip('" ')
    _refuse_header(header, name)
    return header


def _refuse_header(header: list[str], name: str) -> None:
    if len(header) == 1:
        for mark, called in _OTHER_SEPARATORS.items():
            if mark in header[0]:
                raise UserError(f"{name} separates its columns by {called}; save it with commas.")
    if header and "" in header:
        raise UserError(f"{name}: column {header.index('') + 1} has no name; write one in the first row.")
    twice = next((key for key in header if header.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"{name}: two columns are named {twice!r}; give each its own name.")


def _line(number: int, header: list[str], cells: list[str]) -> Line:
    if len(cells) != len(header):
        text = f"it has {plural(len(cells), 'cell')} where the header names {plural(len(header), 'column')}"
        return Line(number, problem=text)
    value: dict[str, Any] = {key: cell for key, cell in zip(header, cells, strict=True) if cell}
    for key in _JSON_CELLS:
        if key in value:
            try:
                value[key] = parse_json(value[key].encode())
            except ValueError as error:
                return Line(number, problem=f"the JSON in column `{key}` is wrong: {error}")
    return Line(number, value)
