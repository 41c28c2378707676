"""JSON lines with their line numbers, readable or not."""

import codecs
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True)
class Line:
    """One line of a data file: its number (from 1), its value, or why it has none."""

    number: int
    value: Any = None
    problem: str | None = None


def read_lines(stream: Iterable[bytes]) -> list[Line]:
    """Every line of a stream that is not blank."""
    return [_read(number, raw) for number, raw in enumerate(stream, start=1) if raw.strip()]


def _read(number: int, raw: bytes) -> Line:
    if raw.startswith(codecs.BOM_UTF8):
        return Line(number, problem="it starts with a byte-order mark; save the file as UTF-8 without one")
    try:
        return Line(number, value=json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant))
    except UnicodeDecodeError as error:
        return Line(number, problem=f"byte {error.start + 1} is not UTF-8")
    except json.JSONDecodeError as error:
        return Line(number, problem=f"{error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return Line(number, problem=str(error))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
