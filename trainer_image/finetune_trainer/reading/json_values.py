"""The values of a JSON file that has no line for each: elements of a list, or objects over several lines.

They are told apart by their brackets here, and lines.parse_line parses them in other processes. A parser of
streams such as ijson is faster on one core (104 MB in 0.4 s against 3.1 s), but it stops at the first error,
has no bound for the bytes of a value, takes the last of two equal keys and replaces half characters by `?`.
"""

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from finetune_trainer.errors import UserError
from finetune_trainer.reading.json_layout import Layout, find_layout
from finetune_trainer.reading.limits import CHUNK_BYTES, RECORD_BYTES
from finetune_trainer.reading.lines import TOO_LONG, RawLine

# Up to the next character that decides, over whole strings. Possessive: what was read is not read again.
_BETWEEN_VALUES = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_IN_VALUE = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_IN_STRING = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
_BRACKETS = 100_000  # so many open at once are no JSON; each costs a step, so their end is not looked for
_NOT_CLOSED = "more brackets open than are closed; is the file cut off?"
_BLANKS = b" \t\r\n"
_FILE_END = b""  # in place of the mark behind a value


def split_values(stream: BinaryIO, name: str, layout: Layout, first: int = 1) -> Iterator[RawLine]:
    """The values as text, numbered from `first`; UserError if the list does not end where the file does.

    A value that is not JSON is still told apart from the next one if its brackets and quotes are paired.
    """
    in_list = layout.kind == "array"
    window = _Window(stream, layout.start, in_list=in_list)
    held: RawLine | None = None  # until it is known that no comma too many follows
    number, before, mark = first, b"", b"["
    while mark != _FILE_END and not (in_list and mark == b"]"):
        before, line = mark, window.line
        raw, mark = window.value()
        if (lines := _lines_to_stray_comma(raw, before, mark, in_list=in_list)) is not None:
            held = _beside_comma(held, f"line {line + lines} of {name}")
        value = raw if raw is None else raw.strip(_BLANKS if in_list else _BLANKS + b",")
        if value == b"":
            continue
        if held is not None:
            yield held
        cut = _NOT_CLOSED if mark == _FILE_END else None
        held = RawLine(number, None if cut else value, cut or (TOO_LONG if value is None else None))
        number += 1
    if held is not None:
        yield held
    if in_list:
        _refuse_end(window, mark, layout.key, name)


def _lines_to_stray_comma(raw: bytes | None, before: bytes, mark: bytes, *, in_list: bool) -> int | None:
    """How many lines below the end of the last value a comma stands that joins nothing; None without one."""
    if raw is None:
        return None
    if not in_list:
        return raw.partition(b",")[0].count(b"\n") if raw.lstrip(_BLANKS).startswith(b",") else None
    if raw.strip(_BLANKS) or mark == _FILE_END:
        return None
    if mark == b",":
        return raw.count(b"\n")
    return 0 if before == b"," else None


def _beside_comma(held: RawLine | None, place: str) -> RawLine:
    if held is None:
        raise UserError(f"A comma stands before the first row ({place}); remove the comma.")
    return RawLine(held.number, None, f"a comma too many follows it ({place}); remove the comma")


def _refuse_end(window: "_Window", mark: bytes, key: str | None, name: str) -> None:
    """A list is closed, and nothing follows it but further fields of the object that holds it."""
    if mark == _FILE_END:
        if not window.told:
            raise UserError(f"{name}: {_NOT_CLOSED}")
    elif key is not None:
        _refuse_other_lists(window.rest(), key, name)
    elif window.rest():
        text = f"something follows the list that ends in line {window.line}"
        raise UserError(f"{name}: {text}; write one list, or one object per line.")


def _refuse_other_lists(rest: bytes, key: str, name: str) -> None:
    """`rest` is what follows the list `key` within its object."""
    if (other := find_layout(b"{" + rest.lstrip(b",")).key) is not None:
        text = f"it holds more than one list of objects: {key}, {other}"
        raise UserError(f"{name}: {text}; write the rows of one into a file of their own.")
    try:
        json.loads(b'{"":0' + rest)
    except (ValueError, RecursionError) as error:
        text = f"what follows the list `{key}` does not close the object around it"
        raise UserError(f"{name}: {text}; repair it, or write one object per line.") from error


class _Window:
    """The part of the stream in which the value lies: from `_start`, looked at up to `_at`.

    In a list a value ends before `,` or `]`; elsewhere with the bracket that closes it.
    """

    def __init__(self, stream: BinaryIO, start: int, *, in_list: bool) -> None:
        self._stream = stream
        self._in_list = in_list
        self._text = stream.read(max(CHUNK_BYTES, start + 1))
        self._start = self._at = start + in_list
        self.line = 1 + self._text.count(b"\n", 0, self._at)
        self._depth = 0
        self._in_string = False
        self.told = False  # that the file ends within a value

    def value(self) -> tuple[bytes | None, bytes]:
        """The next value with the blanks and commas before it (None: too long), and the mark that ends it."""
        too_long = False
        while not (mark := self._look_on()):
            if self._at - self._start > RECORD_BYTES:
                too_long = too_long or not self._text[self._start : self._at].isspace()
                self._pass_by()
            if self._depth > _BRACKETS or not self._read_on():
                rest = self._text[self._start :]
                self.told = too_long or bool(rest.strip(_BLANKS))
                return None if too_long else rest, _FILE_END
        raw = self._text[self._start : self._at - self._in_list]
        self._pass_by()
        return None if too_long or len(raw) > RECORD_BYTES else raw, mark

    def rest(self) -> bytes:
        """What follows without blanks; no more than a chunk of it, which is more than a file should have."""
        rest = self._text[self._at :].strip(_BLANKS)
        while len(rest) < CHUNK_BYTES and (chunk := self._stream.read(CHUNK_BYTES)):
            rest = (rest + chunk).strip(_BLANKS)
        return rest

    def _pass_by(self) -> None:
        self.line += self._text.count(b"\n", self._start, self._at)
        self._start = self._at

    def _look_on(self) -> bytes:
        """Look up to the mark that ends the value; b"" if the window does not hold it."""
        while True:
            self._at = _end(self._pattern(), self._text, self._at)
            mark = self._text[self._at : self._at + 1]
            if mark in (b"", b"\\"):  # the end of the window, perhaps within an escape
                return b""
            self._at += 1
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"[{":
                self._depth += 1
            elif self._depth:
                self._depth -= mark != b","
                if not self._depth and not self._in_list:
                    return mark
            elif self._in_list and mark in b",]":
                return mark

    def _pattern(self) -> re.Pattern[bytes]:
        if self._in_string:
            return _IN_STRING
        return _IN_VALUE if self._depth else _BETWEEN_VALUES

    def _read_on(self) -> bool:
        """Move the window on by one chunk; False at the end of the stream."""
        chunk = self._stream.read(CHUNK_BYTES)
        self._text = self._text[self._start :] + chunk
        self._at = max(0, self._at - self._start)
        self._start = 0
        return bool(chunk)


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
