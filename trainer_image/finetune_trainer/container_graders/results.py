"""What the container of a grader wrote: read within bounds, since nothing about it can be relied upon."""

import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from finetune_trainer.grading import Grade, scored, ungraded
from finetune_trainer.words import plural, printable

MOST_BYTES = 64 << 20
LONGEST_LINE = 64 << 10
_REASON = 500
_SHOWN = 80


@dataclass(frozen=True)
class Said:
    """The grades by id, why all other ids have none, and what is told of lines that are of no row."""

    grades: Mapping[str, Grade]
    otherwise: str
    warnings: tuple[str, ...] = ()

    def of(self, asked: str) -> Grade:
        """The grade of an id; ungraded where nothing was said of it."""
        return self.grades.get(asked) or ungraded(self.otherwise)


@dataclass
class _Seen:
    """How many lines are of one sort, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, text: str) -> None:
        self.first = self.first or printable(text[:_SHOWN])
        self.count += 1


@dataclass
class _Found:
    """What the lines of a file say; no line keeps another from being read."""

    grades: dict[str, Grade] = field(default_factory=dict)
    unread: _Seen = field(default_factory=_Seen)
    unknown: _Seen = field(default_factory=_Seen)

    def add(self, number: int, line: bytes | None, ids: Collection[str]) -> None:
        """Take one line; None is one that is too long."""
        document = _document(line)
        if isinstance(document, str):
            self.unread.add(f"line {number}: {document}")
        elif document["id"] not in ids:
            self.unknown.add(f"line {number}: {document['id']}")
        elif document["id"] in self.grades:
            self.grades[document["id"]] = ungraded("it is graded twice")
        else:
            self.grades[document["id"]] = _grade(document)

    def said(self) -> Said:
        """All of it."""
        unread = f"{plural(self.unread.count, 'line')} cannot be read ({self.unread.first})"
        unknown = f"{plural(self.unknown.count, 'line')} with an id that was not asked ({self.unknown.first})"
        told = [unread] * bool(self.unread.count) + [unknown] * bool(self.unknown.count)
        missing = "its container wrote no line about it"
        return Said(self.grades, f"{missing}; of its results {told[0]}" if told else missing, tuple(told))


def read_results(path: Path, ids: Collection[str]) -> Said:
    """The grades of these ids. A file that is none, or is too large, grades nothing."""
    found = _Found()
    try:
        with _opened(path) as file:
            for number, line in _lines(file):
                found.add(number, line, ids)
    except OSError as error:
        why = error.strerror or str(error)
        return Said({}, f"its container left no results.jsonl that can be read ({why})")
    return found.said()


def _opened(path: Path) -> BinaryIO:
    """The file for reading: no link, which could lead to files of ours, and no pipe, which may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file, status = os.fdopen(descriptor, "rb"), os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
        return file
    file.close()
    large = stat.S_ISREG(status.st_mode)
    raise OSError(f"it is larger than {MOST_BYTES >> 20} MiB" if large else "it is no file")


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not empty with their numbers; None for one that is too long."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        too_long = len(line) > LONGEST_LINE
        while too_long and not line.endswith(b"\n") and (line := file.readline(LONGEST_LINE)):
            pass
        if too_long or line.strip():
            yield number, None if too_long else line


def _document(line: bytes | None) -> dict[str, Any] | str:
    """The JSON object of a line with its id, a text; else what is wrong with the line."""
    if line is None:
        return f"it is longer than {LONGEST_LINE >> 10} KiB"
    try:
        document = json.loads(line.decode())
    except (ValueError, RecursionError):
        return "it is no JSON"
    if not isinstance(document, dict):
        return "it is no JSON object"
    return document if isinstance(document.get("id"), str) else "it has no `id` that is a text"


def _grade(document: dict[str, Any]) -> Grade:
    """The grade of a line; one that is wrong in any part grades nothing."""
    score, passed, reason = (document.get(key) for key in ("score", "pass", "reason"))
    if not isinstance(reason, str | None) or not isinstance(passed, bool | None):
        return ungraded("its `reason` is no text, or its `pass` is neither true nor false")
    said = (reason or "")[:_REASON]
    if score is None and "score" in document and reason:
        return ungraded(said)
    if isinstance(score, bool) or not isinstance(score, int | float):
        return ungraded("it has no `score` that is a number")
    if not 0 <= score <= 1:  # nor is NaN
        return ungraded("its `score` is not between 0 and 1")
    found = scored(float(score), said)
    return found if passed is None else Grade(found.score, passed, found.reason)
