"""How the values of a JSON file lie in it, told by its first bytes and never by its name."""

import json
import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import Literal

from finetune_trainer.reading.strict_json import count_open

# A row may hold lists of objects under these names; under another name, a list of objects holds the rows.
_LISTS_IN_ROWS = frozenset({
    "messages", "conversations", "prompt", "completion", "chosen", "rejected", "tools", "functions",
})  # fmt: skip
_FIELD = re.compile(r'[{,]\s*("(?:[^"\\]++|\\.)*+")\s*:\s*', re.DOTALL)
_LIST_OF_OBJECTS = re.compile(r"\[\s*\{")
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class Layout:
    """`lines`: a value on each line. `values`: one after another, each over several lines.

    `array`: the elements of a list whose `[` is byte `start`; `key` names the list if an object holds it.
    """

    kind: Literal["lines", "values", "array"]
    start: int = 0
    key: str | None = None


def find_layout(head: bytes) -> Layout:
    """The layout of a file that begins with `head`; what is no list and no object is read as lines."""
    text = head.removeprefix(BOM_UTF8).lstrip()
    start = len(head) - len(text)
    first, _, rest = text.partition(b"\n")
    second = rest.lstrip()
    if first[:1] not in (b"[", b"{") or (second and count_open(first) == 0):
        return Layout("lines")
    if first[:1] == b"[":
        return Layout("array", start)
    # Bytes and letters of Latin-1 are one to one, so places in this text are places in the file.
    if (wrapped := _wrapped(head.decode("latin-1"), start)) is not None:
        return wrapped
    return Layout("values" if second and second[:1] != b"{" else "lines", start)


def _wrapped(text: str, start: int) -> Layout | None:
    """The list of rows within one object, as in {"version": 1, "data": [{...}, ...]}; None without one."""
    at = start
    while (field := _FIELD.match(text, at)) is not None:
        key, at = _utf8(json.loads(field[1], strict=False)), field.end()
        if key in _LISTS_IN_ROWS:
            return None
        if _LIST_OF_OBJECTS.match(text, at):
            return None if _another_follows(text, start) else Layout("array", at, key)
        if (at := _after_value(text, at)) < 0:
            return None
    return None


def _another_follows(text: str, start: int) -> bool:
    """Whether a second object is in sight, so that the first is a row."""
    end = _after_value(text, start)
    return end >= 0 and text[end : end + 1] == "{"


def _after_value(text: str, at: int) -> int:
    """The place after the value at `at` and the blanks behind it; -1 if it is broken or not all in sight."""
    try:
        end = _DECODER.raw_decode(text, at)[1]
    except (ValueError, RecursionError):
        return -1
    return len(text) - len(text[end:].lstrip())


def _utf8(latin: str) -> str:
    return latin.encode("latin-1", "replace").decode("utf-8", "replace")
