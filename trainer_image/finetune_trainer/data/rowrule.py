"""Rules that look at one row at a time, and the tally of what they found, which can be merged.

Chunks of a data set are examined by several processes, so a rule gives a clause about one row, a `Tally`
collects clauses, and only a tally over all rows becomes a `Finding`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finetune_trainer.data.findings import SHOWN_ROWS, Finding, Severity, name_rows

_SHOWN_NAMES = 20

Subject = TypeVar("Subject")
# How bad a finding is, given how many rows it names of how many.
Judge = Callable[[int, int], Severity]


@dataclass(frozen=True)
class RowRule(Generic[Subject]):
    """`problem` names what is wrong with one row as a clause ("message 2 lacks `content`"), or None.

    `advice` is a clause in the imperative ("add it"), "" where each problem has its own; `about` are the
    data sets it applies to. `names` gives the names that a problem is about: the finding lists those of all
    rows, where a problem alone is that of the first row.
    """

    number: int
    name: str
    problem: Callable[[Subject], str | None]
    advice: str = ""
    severity: Severity | Judge = "error"
    about: tuple[str, ...] = ("train", "holdout")
    names: Callable[[Subject], Iterable[str]] | None = None

    def judge(self, count: int, rows: int) -> Severity:
        """The severity of `count` of `rows`."""
        return self.severity if isinstance(self.severity, str) else self.severity(count, rows)


@dataclass(frozen=True)
class Tally:
    """What one rule found in some rows: how many, the first of them, the first clause, and all names."""

    count: int = 0
    rows: tuple[int, ...] = ()
    first: str = ""
    names: tuple[str, ...] = ()

    def __add__(self, later: "Tally") -> "Tally":
        """Both, `later` being about rows that come after."""
        rows = (self.rows + later.rows)[:SHOWN_ROWS]
        names = _distinct(self.names + later.names)
        return Tally(self.count + later.count, rows, self.first if self.count else later.first, names)


def tally(rule: RowRule[Subject], subjects: Iterable[tuple[int, Subject]]) -> Tally:
    """What a rule says about numbered rows, in their order; a number that comes again counts once."""
    wrong: dict[int, str] = {}
    names: list[str] = []
    for number, subject in subjects:
        if problem := rule.problem(subject):
            wrong.setdefault(number, problem)
            names += rule.names(subject) if rule.names else ()
    return Tally(len(wrong), tuple(wrong)[:SHOWN_ROWS], next(iter(wrong.values()), ""), _distinct(names))


def finding(rule: RowRule[Subject], counted: Tally, rows: int) -> Finding | None:
    """The finding of a rule over a data set of `rows` rows."""
    if not counted.count:
        return None
    where = name_rows(counted.rows, counted.count)
    clause = ": ".join(filter(None, (counted.first, _listed(counted.names))))
    text = "; ".join(filter(None, (f"{where[:1].upper()}{where[1:]}: {clause}", rule.advice)))
    severity = rule.judge(counted.count, rows)
    return Finding(rule.number, rule.name, severity, counted.count, counted.rows, f"{text}.")


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, and one more than are shown: rows may have any names."""
    return tuple(dict.fromkeys(names))[: _SHOWN_NAMES + 1]


def _listed(names: tuple[str, ...]) -> str:
    more = " and more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more
