"""Rules that look at one row at a time, and the tally of what they said, which can be merged.

Chunks of a data set are examined by several processes, so a rule gives a clause about one row, a `Tally`
collects clauses, and only a tally over all rows becomes a `Finding`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune_trainer.data.findings import SHOWN_ROWS, Finding, Severity, name_rows

Subject = TypeVar("Subject")
# How bad a finding is, given how many rows it names of how many.
Judge = Callable[[int, int], Severity]


@dataclass(frozen=True)
class RowRule(Generic[Subject]):
    """`problem` names what is wrong with one row as a clause ("message 2 lacks `content`"), or None.

    `advice` is a clause in the imperative ("add it"); `about` are the data sets it applies to.
    """

    number: int
    name: str
    problem: Callable[[Subject], str | None]
    advice: str
    severity: Severity | Judge = "error"
    about: tuple[str, ...] = ("train", "holdout")

    def judge(self, count: int, rows: int) -> Severity:
        """The severity of `count` of `rows`."""
        return self.severity if isinstance(self.severity, str) else self.severity(count, rows)


@dataclass(frozen=True)
class Tally:
    """What one rule said about some rows: how many, the first of them, and the clause about the first."""

    count: int = 0
    rows: tuple[int, ...] = ()
    first: str = ""

    def __add__(self, later: "Tally") -> "Tally":
        """Both, `later` being about rows that come after."""
        rows = (self.rows + later.rows)[:SHOWN_ROWS]
        return Tally(self.count + later.count, rows, self.first if self.count else later.first)


def tally(rule: RowRule[Subject], subjects: Iterable[tuple[int, Subject]]) -> Tally:
    """What a rule says about numbered rows, in their order; a number that comes again counts once."""
    wrong: dict[int, str] = {}
    for number, subject in subjects:
        if problem := rule.problem(subject):
            wrong.setdefault(number, problem)
    return Tally(len(wrong), tuple(wrong)[:SHOWN_ROWS], next(iter(wrong.values()), ""))


def finding(rule: RowRule[Subject], counted: Tally, rows: int) -> Finding | None:
    """The finding of a rule over a data set of `rows` rows."""
    if not counted.count:
        return None
    where = name_rows(counted.rows, counted.count)
    text = f"{where[:1].upper()}{where[1:]}: {counted.first}; {rule.advice}."
    severity = rule.judge(counted.count, rows)
    return Finding(rule.number, rule.name, severity, counted.count, counted.rows, text)
