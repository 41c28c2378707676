"""Whether a data set has one format (data rule 3), counted so that chunks can be put together."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from finetune_trainer.data.findings import SHOWN_ROWS, Finding
from finetune_trainer.data.formats import detect
from finetune_trainer.data.rowrule import Tally

_SHOWN_RUNS = 4


@dataclass(frozen=True)
class Run:
    """Rows `first` to `last` that follow each other and have one format."""

    kind: str
    first: int
    last: int


@dataclass(frozen=True)
class FormatRuns:
    """The first runs of rows of one format, whether there are `more`, and the rows of each format.

    Rows of no known format are not counted: rule 5 names them.
    """

    runs: tuple[Run, ...] = ()
    more: bool = False
    kinds: dict[str, Tally] = field(default_factory=dict)

    def __add__(self, later: "FormatRuns") -> "FormatRuns":
        """Both, `later` being about rows that come after."""
        kinds = {**self.kinds}
        for kind, tally in later.kinds.items():
            kinds[kind] = kinds.get(kind, Tally()) + tally
        if self.more:
            return FormatRuns(self.runs, True, kinds)
        runs = _joined(self.runs, later.runs)
        return FormatRuns(runs[:_SHOWN_RUNS], later.more or len(runs) > _SHOWN_RUNS, kinds)

    def finding(self) -> Finding | None:
        """Rule 3: all rows have one format; the rows that are named differ from the first."""
        if len(self.kinds) < 2:
            return None
        others = [tally for kind, tally in self.kinds.items() if kind != self.runs[0].kind]
        rows = tuple(sorted(row for tally in others for row in tally.rows)[:SHOWN_ROWS])
        where = ", ".join(_named(run) for run in self.runs)
        text = f"Formats are mixed: {where}{' ...' if self.more else ''}; use one."
        return Finding(3, "mixed_formats", "error", sum(tally.count for tally in others), rows, text)


def _named(run: Run) -> str:
    if run.first == run.last:
        return f"row {run.first} is {run.kind}"
    return f"rows {run.first}-{run.last} are {run.kind}"


def format_runs(rows: Iterable[tuple[int, dict[str, Any]]]) -> FormatRuns:
    """The runs of numbered raw rows, in their order."""
    kinds = ((detect(row), number) for number, row in rows)
    known = ((kind, number) for kind, number in kinds if kind != "unknown")
    total = FormatRuns()
    for kind, group in groupby(known, key=lambda pair: pair[0]):
        numbers = [number for _, number in group]
        tally = Tally(len(numbers), tuple(numbers[:SHOWN_ROWS]))
        total += FormatRuns((Run(kind, numbers[0], numbers[-1]),), kinds={kind: tally})
    return total


def _joined(before: tuple[Run, ...], after: tuple[Run, ...]) -> tuple[Run, ...]:
    if before and after and before[-1].kind == after[0].kind:
        middle = Run(after[0].kind, before[-1].first, after[0].last)
        return (*before[:-1], middle, *after[1:])
    return before + after
