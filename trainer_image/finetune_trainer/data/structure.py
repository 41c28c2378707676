"""What the rules about single rows say (data rules 1 to 15, 45 to 47), counted so that chunks add up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from finetune_trainer.data import rules
from finetune_trainer.data.findings import Finding, present
from finetune_trainer.data.formats import Row, canonical
from finetune_trainer.data.rowrule import RowRule, Tally, finding, tally
from finetune_trainer.data.rules import FormatRuns, Shares
from finetune_trainer.data.spellings import respelled
from finetune_trainer.reading.lines import Line

Subject = TypeVar("Subject")
_Tallies = tuple[Tally, ...]


@dataclass(frozen=True)
class Structure:
    """Counts of records, of those that are JSON objects, and of those that are sound, with what was found.

    The tallies are in the order of the groups of rules (`rules.LINE_RULES` and so on), without those that
    are not about the data set.
    """

    dataset: str
    records: int = 0
    objects: int = 0
    sound: int = 0
    about_records: _Tallies = ()
    about_objects: _Tallies = ()
    about_sound: _Tallies = ()
    runs: FormatRuns = field(default_factory=FormatRuns)
    shares: Shares = field(default_factory=Shares)

    def __add__(self, later: "Structure") -> "Structure":
        """Both, `later` being about records that come after."""
        return Structure(
            self.dataset,
            self.records + later.records,
            self.objects + later.objects,
            self.sound + later.sound,
            _sums(self.about_records, later.about_records),
            _sums(self.about_objects, later.about_objects),
            _sums(self.about_sound, later.about_sound),
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
            *_findings(rules.LINE_RULES, self.about_records, self.records, self.dataset),
            self.runs.finding(),
            *_findings(rules.RAW_RULES, self.about_objects, self.objects, self.dataset),
            *_findings(rules.ROW_RULES, self.about_sound, self.sound, self.dataset),
            *self.shares.findings(),
        ]
        return present(found, self.dataset)


def examine(lines: Sequence[Line], dataset: str) -> tuple[Structure, list[Row]]:
    """What there is to say about records of `train` or `holdout`, and the sound ones in canonical form."""
    raw = [(line.number, respelled(line.value)) for line in lines if isinstance(line.value, dict)]
    rows = [canonical(number, row) for number, row in raw if rules.sound(row, dataset)]
    structure = Structure(
        dataset,
        len(lines),
        len(raw),
        len(rows),
        _tallies(rules.LINE_RULES, [(line.number, line) for line in lines], dataset),
        _tallies(rules.RAW_RULES, raw, dataset),
        _tallies(rules.ROW_RULES, [(row.number, row) for row in rows], dataset),
        rules.format_runs(raw),
        rules.shares(rows),
    )
    return structure, rows


def _about(group: Iterable[RowRule[Subject]], dataset: str) -> list[RowRule[Subject]]:
    return [rule for rule in group if dataset in rule.about]


def _tallies(
    group: Iterable[RowRule[Subject]], subjects: Sequence[tuple[int, Subject]], dataset: str
) -> _Tallies:
    return tuple(tally(rule, subjects) for rule in _about(group, dataset))


def _sums(earlier: _Tallies, later: _Tallies) -> _Tallies:
    return tuple(one + other for one, other in zip(earlier, later, strict=True)) if earlier else later


def _findings(
    group: Iterable[RowRule[Any]], tallies: _Tallies, rows: int, dataset: str
) -> list[Finding | None]:
    ruled = zip(_about(group, dataset), tallies, strict=True) if tallies else ()
    return [finding(rule, counted, rows) for rule, counted in ruled]
