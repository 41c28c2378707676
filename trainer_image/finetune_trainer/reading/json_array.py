"""The elements of a JSON array one by one, told apart by their brackets; lines.parse_line parses them."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from finetune_trainer.reading.limits import CHUNK_BYTES, RECORD_BYTES
from finetune_trainer.reading.lines import TOO_LONG, RawLine

# Up to the next character that decides, over whole strings. Possessive: what was read is not read again.
_BETWEEN_ELEMENTS = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_IN_ELEMENT = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_IN_STRING = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
_NOT_CLOSED = "the file ends before the array is closed by `]`, or brackets open without end; is it cut off?"
_BRACKETS = 100_000  # so many open at once are no JSON; each costs a step, so their end is not looked for
_FOLLOWED = "something follows the end of the array; write one array, or one object per line"


def split_array(stream: BinaryIO, first: int = 1) -> Iterator[RawLine]:
    """The elements of an array as text, numbered from `first`; the stream starts with `[`, after blanks.

    An element that is not JSON is still told apart from the next one if its brackets and quotes are paired.
    """
    window = _Window(stream)
    number = first
    while True:
        raw, mark = window.element()
        if not mark:
            yield RawLine(number, None, _NOT_CLOSED)
            return
        if raw is None:
            yield RawLine(number, None, TOO_LONG)
        elif raw.strip() or mark == b"," or number > first:
            yield RawLine(number, raw.strip())
        if mark == b"]":
            break
        number += 1
    if window.is_followed():
        yield RawLine(number + 1, None, _FOLLOWED)


class _Window:
    """The part of the stream in which the element lies: from `_start`, looked at up to `_at`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._text = stream.read(CHUNK_BYTES)
        self._start = self._at = self._text.find(b"[") + 1
        self._depth = 0
        self._in_string = False

    def element(self) -> tuple[bytes | None, bytes]:
        """The next element (None if it is too long) and the mark after it, b"" at the end of the file."""
        too_long = False
        while not (mark := self._look_on()):
            if self._at - self._start > RECORD_BYTES:
                too_long, self._start = True, self._at
            if self._depth > _BRACKETS or not self._read_on():
                return None, b""
        end, start = self._at - 1, self._start
        self._start = self._at
        return (None if too_long or end - start > RECORD_BYTES else self._text[start:end]), mark

    def is_followed(self) -> bool:
        """Whether anything but blanks comes after the array."""
        self._start = self._at
        while not self._text[self._start :].strip():
            self._start = len(self._text)
            if not self._read_on():
                return False
        return True

    def _look_on(self) -> bytes:
        """Look up to the mark that ends the element; b"" if the window does not hold it."""
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
                self._depth -= 1
            elif mark in b",]":
                return mark

    def _pattern(self) -> re.Pattern[bytes]:
        if self._in_string:
            return _IN_STRING
        return _IN_ELEMENT if self._depth else _BETWEEN_ELEMENTS

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
