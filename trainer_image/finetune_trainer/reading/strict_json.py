"""JSON as RFC 8259 asks programs to write it: UTF-8, each key once, finite numbers, whole characters."""

import json
import re
from itertools import accumulate
from typing import Any, NoReturn

from finetune_trainer.reading.limits import JSON_DEPTH

# A string, or the rest of the text if it is not closed: possessive, so that no text takes quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_SHOWN_KEY = 40


def parse_json(raw: bytes) -> Any:
    """The value; ValueError whose text is a clause about what is wrong ("byte 7 is not UTF-8 ...")."""
    _refuse_depth(raw)
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        text = f"byte {error.start + 1} is not UTF-8 (Latin-1 or Windows-1252?); save the file as UTF-8"
        raise ValueError(text) from error
    except json.JSONDecodeError as error:
        raise ValueError(_explained(error)) from error
    if b"\\u" in raw:
        _refuse_half_characters(value)
    return value


def count_open(raw: bytes) -> int:
    """How many brackets outside of strings are not closed."""
    return sum(map(_STEPS.__getitem__, _brackets(raw)))


def _brackets(raw: bytes) -> bytes:
    return _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)


def _refuse_depth(raw: bytes) -> None:
    """Count before parsing: the parser, and all who walk the value later, nest calls as deep as the value."""
    if raw.count(b"[") + raw.count(b"{") <= JSON_DEPTH:
        return
    if max(accumulate(map(_STEPS.__getitem__, _brackets(raw))), default=0) > JSON_DEPTH:
        raise ValueError(f"it nests deeper than {JSON_DEPTH} levels")


def _refuse_half_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise ValueError(f"\\u{code:04x} is half of a character (a lone surrogate)") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:_SHOWN_KEY]!r} appears twice in one object")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:_SHOWN_KEY]} is too large for a number")
    return value


def _whole(digits: str) -> int:
    if len(digits) > _SHOWN_KEY:
        raise ValueError(f"{digits[:_SHOWN_KEY]}... is too large for a number")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _explained(error: json.JSONDecodeError) -> str:
    """The parser's words, or what they come from where that is a comma too many."""
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].strip()
    if before.endswith(",") and after[:1] in ("]", "}"):
        place = _place(error.doc, len(before) - 1)
        return f"a comma stands before the closing `{after[0]}` at {place}; remove the comma"
    if error.msg == "Extra data" and after == ",":
        return f"a comma follows the value at {_place(error.doc, error.pos)}; remove the comma"
    return f"{error.msg} at {_place(error.doc, error.pos)}"


def _place(text: str, at: int) -> str:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return f"column {column}" if line == 1 else f"line {line}, column {column} of the row"


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_float=_finite, parse_int=_whole, parse_constant=_refuse_constant
)
