"""The lines of a data file, readable or not."""

from collections.abc import Iterable
from io import BytesIO

from finetune_trainer.reading.lines import Line, parse_line, split_lines

__all__ = ["Line", "read_lines"]


def read_lines(stream: Iterable[bytes]) -> list[Line]:
    """Every line of a stream that is not blank."""
    return list(map(parse_line, split_lines(BytesIO(b"".join(stream)))))
