"""`python -m tests.gate.report`: simulates the gate and writes the tables of docs/evaluation.md (minutes)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.gate.simulation import Holdout, Kept, Measured, measure, measure_kept

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
HEADING = "## Simulated"
RUNS = 2_000
BASE = 0.3
HOLDOUTS = (
    *(Holdout(rows) for rows in (50, 150, 500)),
    *(Holdout(rows, 5, alike) for alike in (1.0, 0.7) for rows in (50, 150, 500)),
    Holdout(60, 10),
)
KEPT = tuple((rows, differing) for differing in (0.06, 0.10) for rows in (50, 150, 500))


def tables(measured: Iterable[Measured], kept: Iterable[Kept]) -> str:
    """Both tables in Markdown."""
    return "\n".join(
        [
            f"Written by `python -m tests.gate.report`, do not edit: {RUNS:,} evaluations of a base that scores "
            f"{BASE:.0%} in each line. *Promoted* is the share of models as good as their base whose interval "
            "lies above 0 (`gate.minDelta` lets even fewer pass). *Detectable* takes the rows of a group for "
            "equal; where they are not, more shows.\n",
            "| hold-out | promoted | if groups were not known | detectable | its power, stated 80 % |",
            "|---|---|---|---|---|",
            *map(_measured, measured),
            "\nA grader that does not decide, margin 5 points: shares of evaluations in which it holds.\n",
            "| rows | rows that differ | no true difference | a true loss of 5 points |",
            "|---|---|---|---|",
            *(f"| {k.rows} | {k.differing:.0%} | {k.unchanged:.1%} | {k.lost:.1%} |" for k in kept),
        ]
    )


def _measured(found: Measured) -> str:
    ignored = "" if found.holdout.size == 1 else f"{found.ignored:.1%}"
    effect = "none" if found.effect is None else f"{100 * found.effect:.1f} points"
    power = "" if found.power is None else f"{found.power:.1%}"
    return f"| {_holdout(found.holdout)} | {found.promoted:.1%} | {ignored} | {effect} | {power} |"


def _holdout(holdout: Holdout) -> str:
    if holdout.size == 1:
        return f"{holdout.rows} rows"
    equal = "equal rows" if holdout.alike == 1 else "rows, partly alike"
    return f"{holdout.rows} rows: {holdout.groups} groups of {holdout.size} {equal}"


def measurements() -> tuple[list[Measured], list[Kept]]:
    """All that the tables show."""
    measured = [measure(holdout, BASE, RUNS) for holdout in HOLDOUTS]
    return measured, [measure_kept(rows, differing, RUNS) for rows, differing in KEPT]


def main() -> None:
    """Replace the page's last section."""
    text, _, _ = PAGE.read_text().partition(HEADING)
    PAGE.write_text(f"{text}{HEADING}\n\n{tables(*measurements())}\n")


if __name__ == "__main__":
    main()
