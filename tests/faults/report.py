"""`python -m tests.faults.report`: plays every trial and writes docs/faults.md (part of `make test-long`).

pytest prints the same tables of the part that `make test` plays.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.faults.campaign import Campaign, Trial
from tests.faults.cluster.controlplane import Cluster
from tests.faults.oracles import CHECKS
from tests.faults.own_clusters import older_crds, restarts
from tests.faults.play import Outcome, Player
from tests.faults.trials import ALL_CRASHES, ATTACKS_ON_ALL, ATTACKS_ON_TWO, SOME_CRASHES, UNDISTURBED

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
QUIET_SECONDS = 60.0

INTRODUCTION = """# Faults

What the operator is put through, on real etcd, kube-apiserver and kube-controller-manager; the operators are
real processes behind a proxy, nodes and what runs in pods are played (tests/faults). Written by
`python -m tests.faults.report`, do not edit.
"""


async def play(folder: Path, trials: Sequence[Trial]) -> tuple[list[Outcome], list[str]]:
    """These side by side on one cluster, and what needs clusters of its own; with the faults of the stand-in."""
    async with Cluster(folder / "shared") as cluster:
        campaign = Campaign(Player(cluster, QUIET_SECONDS), Player(cluster, quiet=1))
        campaign.schedule(trials)
        await asyncio.gather(*map(campaign.outcomes, trials))
        faults = list(cluster.nodes.faults)
    outcomes = list(campaign.played)
    for number, other in enumerate((restarts, older_crds)):
        async with Cluster(folder / str(number)) as cluster:
            outcomes += await other(cluster)
    return outcomes, faults


def tables(outcomes: Sequence[Outcome], faults: Sequence[str] = ()) -> str:
    """All of it in Markdown: by scenario, by attack, what was violated, and where the stand-in failed."""
    wrong = [f"- {o.scenario}, {o.attack}: {v}" for o in outcomes for v in o.violations]
    wrong += [f"- the played nodes failed: {fault}" for fault in faults]
    return "\n\n".join(
        [
            _totals(outcomes),
            "What must hold in every play:\n\n" + "\n".join(f"- {check}" for check in CHECKS),
            _table("Scenario", outcomes, lambda outcome: outcome.scenario),
            _table("What is done to the operator", outcomes, _sort),
            "Violations:\n\n" + ("\n".join(wrong) if wrong else "none."),
        ]
    )


def _totals(outcomes: Sequence[Outcome]) -> str:
    writes, lives = sum(len(o.writes) for o in outcomes), sum(o.lives for o in outcomes)
    revisions, wrong = sum(o.revisions for o in outcomes), sum(bool(o.violations) for o in outcomes)
    return (
        f"{len(outcomes)} plays, {lives} operators started, {writes} writes of theirs, {revisions} stored "
        f"revisions checked; plays with a violation: {wrong}."
    )


def _table(title: str, outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> str:
    rows = [
        f"| {title} | plays | writes of one play | longest, s | with a violation |",
        "|---|---|---|---|---|",
    ]
    names = dict.fromkeys(map(key, outcomes))
    return "\n".join([*rows, *(_row(name, [o for o in outcomes if key(o) == name]) for name in names)])


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    writes = sorted(len(outcome.writes) for outcome in outcomes)
    span = str(writes[0]) if writes[0] == writes[-1] else f"{writes[0]} to {writes[-1]}"
    longest, wrong = max(outcome.seconds for outcome in outcomes), _count(outcomes)
    return f"| {name} | {len(outcomes)} | {span} | {longest:.0f} | {wrong} |"


def _count(outcomes: Iterable[Outcome]) -> int:
    return sum(bool(outcome.violations) for outcome in outcomes)


def _sort(outcome: Outcome) -> str:
    """All deaths before a write are one sort of attack, and so are those after one."""
    return re.sub(r"(death (before|after)) write \d+", r"\1 a write", outcome.attack)


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> int:
    """Write the page; the exit code says whether anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.report", description=__doc__)
    parser.add_argument(
        "--sample", action="store_true", help="the trials of `make test` (minutes, not an hour)"
    )
    sample = parser.parse_args().sample
    started, commit = time.monotonic(), _commit()
    rest: Sequence[Trial] = SOME_CRASHES if sample else (*ATTACKS_ON_ALL, *ALL_CRASHES)
    trials = (*UNDISTURBED, *ATTACKS_ON_TWO, *rest)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, faults = asyncio.run(play(Path(folder), trials))
    minutes = (time.monotonic() - started) / 60
    deaths = "a sample of the deaths and of the attacks" if sample else "all deaths and all attacks"
    when = f"This run: commit {commit}, {deaths}, {minutes:.0f} minutes.\n"
    PAGE.write_text("\n".join([INTRODUCTION, when, tables(outcomes, faults), ""]))
    print(_totals(outcomes))
    return int(_count(outcomes) > 0 or bool(faults))


if __name__ == "__main__":
    sys.exit(main())
