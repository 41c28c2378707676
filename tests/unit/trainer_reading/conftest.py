"""Bytes as the stream of a file."""

import io
from collections.abc import Callable

import pytest

from finetune_trainer.reading.kinds import Kind
from finetune_trainer.reading.lines import Line, parse_line
from finetune_trainer.reading.records import read_records

Read = Callable[[bytes, Kind], list[Line]]


@pytest.fixture(scope="session")
def read() -> Read:
    """All records of a file with these bytes, named `data`."""

    def read(content: bytes, kind: Kind) -> list[Line]:
        stream = io.BufferedReader(io.BytesIO(content))  # type: ignore[type-var]
        return list(map(parse_line, read_records(stream, kind, "data")))

    return read
