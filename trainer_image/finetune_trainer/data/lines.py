"""The lines of a data file, readable or not."""

from collections.abc import Iterable

from finetune_trainer.reading.lines import Line, RawLine, parse_line

__all__ = ["Line", "read_lines"]


def read_lines(lines: Iterable[bytes]) -> list[Line]:
    """Every line that is not blank, numbered from 1."""
    return [parse_line(RawLine(number, raw)) for number, raw in enumerate(lines, start=1) if raw.strip()]
