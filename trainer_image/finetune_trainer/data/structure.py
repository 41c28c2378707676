"""What the rules about single rows say (data rules 1 to 20, 45 to 47), counted so that chunks can be added."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from finetune_trainer.data import rules
from finetune_trainer.data.findings import Finding, present
from finetune_trainer.data.formats import Row, canonical
from finetune_trainer.data.rowrule import RowRule, Tally, finding, tally
from finetune_trainer.data.rules import FormatRuns, Shares
from finetune_trainer.reading.lines import Line

Subject = TypeVar("Subject")
_Tallies = dict[str, Tally]


@dataclass(frozen=True)
class Structure:
    """Counts of records, of those that are JSON objects, and of those that are sound, with what was found.

    `tallies` are by the names of the rules.
    """

    dataset: str
    records: int = 0
    objects: int = 0
    sound: int = 0
    tallies: _Tallies = field(default_factory=dict)
    runs: FormatRuns = field(default_factory=FormatRuns)
    shares: Shares = field(default_factory=Shares)

    def __add__(self, later: "Structure") -> "Structure":
        """Both, `later` being about records that come after."""
        return Structure(
            self.dataset,
            self.records + later.records,
            self.objects + later.objects,
            self.sound + later.sound,
            {name: self.tallies[name] + later.tallies[name] for name in later.tallies}
            if self.tallies
            else later.tallies,
            self.runs + later.runs,
            self.shares + later.shares,
        )

    @property
    def format(self) -> str | None:
        """The one format of the rows; None without rows or with several."""
        return next(iter(self.runs.kinds)) if len(self.runs.kinds) == 1 else None

    def findings(self) -> list[Finding]:
        """What the rules say about all records."""
        found = [
            *self._of(rules.LINE_RULES, self.records),
            self.runs.finding(),
            *self._of(rules.RAW_RULES, self.objects),
            *self._of(rules.ROW_RULES, self.sound),
            *self.shares.findings(),
        ]
        return present(found, self.dataset)

    def _of(self, group: Sequence[RowRule[Any]], rows: int) -> list[Finding | None]:
        return [finding(rule, self.tallies[rule.name], rows) for rule in group if rule.name in self.tallies]


def examine(lines: Sequence[Line], dataset: str) -> tuple[Structure, list[Row]]:
    """What there is to say about records of `train` or `holdout`, and the sound ones in canonical form."""
    raw = [(line.number, line.value) for line in lines if isinstance(line.value, dict)]
    rows = [canonical(number, row) for number, row in raw if rules.sound(row, dataset)]
    tallies = {
        **_tallies(rules.LINE_RULES, [(line.number, line) for line in lines], dataset),
        **_tallies(rules.RAW_RULES, raw, dataset),
        **_tallies(rules.ROW_RULES, [(row.number, row) for row in rows], dataset),
    }
    runs, shares = rules.format_runs(raw), rules.shares(rows)
    return Structure(dataset, len(lines), len(raw), len(rows), tallies, runs, shares), rows


def _tallies(
    group: Iterable[RowRule[Subject]], subjects: Sequence[tuple[int, Subject]], dataset: str
) -> _Tallies:
    return {rule.name: tally(rule, subjects) for rule in group if dataset in rule.about}
