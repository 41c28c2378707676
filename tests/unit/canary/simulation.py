"""Rollouts of versions whose true quality is known: how often the analysis decides wrongly.

`python -m tests.unit.canary.simulation` prints the table of docs/rollouts.md. Each rollout is played by the state
machine itself, from counters as gateways tell them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import median
from typing import Any, Literal, TypeAlias

import numpy as np

from finetune_operator.api.rollout import ProcessCounters, RolloutRecord
from finetune_operator.canary.machine import Look, advance
from tests.unit.canary.builders import CHANGE, NOW, VERIFIED, rollout

Outcome: TypeAlias = Literal["Promoted", "RolledBack", "Waiting"]
WEIGHTS = (5, 25, 50)
LOOK_SECONDS = 5
LOOKS_IN_A_STEP = 60  # five minutes
MOST_LOOKS = 10 * LOOKS_IN_A_STEP * len(WEIGHTS)


@dataclass(frozen=True)
class Quality:
    """The share of requests that fail and the mean time of an answer in seconds (log-normal, sigma 0.8).

    `drift` is the spread of a factor common to all answers of one look: load that comes and goes.
    """

    errors: float = 0.01
    seconds: float = 2.0
    drift: float = 0.2


@dataclass(frozen=True)
class Trial:
    """Versions, limits, and how many requests the new version gets in a step of five minutes."""

    before: Quality
    after: Quality
    limits: tuple[tuple[str, str], ...]
    requests: int

    def outcomes(self, rollouts: int, seed: int) -> Counter[Outcome]:
        """How many rollouts ended how."""
        return Counter(outcome for outcome, _ in self._plays(rollouts, seed))

    def requests_until_back(self, rollouts: int, seed: int) -> float:
        """The median of the requests to the new version before a rollback."""
        return median(cost for outcome, cost in self._plays(rollouts, seed) if outcome == "RolledBack")

    def _plays(self, rollouts: int, seed: int) -> list[tuple[Outcome, int]]:
        draws = np.random.default_rng(seed)
        return [self._play(draws) for _ in range(rollouts)]

    def _play(self, draws: np.random.Generator) -> tuple[Outcome, int]:
        """How one rollout ends, and how many requests the new version got until then."""
        steps = [{"weight": w, "holdSeconds": LOOK_SECONDS * LOOKS_IN_A_STEP} for w in WEIGHTS]
        spec = rollout(steps=steps, analysis={"minRequests": self.requests, **dict(self.limits)})
        record: RolloutRecord | None = None
        sent = 0
        for look in self._looks(draws):
            if record is not None:
                look = replace(look, counters=(self._told(draws, record),))
                sent += _canary_requests(look.counters[0]) - _canary_requests(_last(record))
            record = advance(spec, record, CHANGE, look)
            if record is not None and record.phase == "RolledBack":
                return "RolledBack", sent
            if record is not None and record.phase == "Promote":
                return "Promoted", sent
        return "Waiting", sent

    def _looks(self, draws: np.random.Generator) -> Iterator[Look]:
        first = ProcessCounters(process="p", stable=(0,) * 6, canary=(0,) * 6)
        yield replace(VERIFIED, counters=(first,))
        for number in range(1, MOST_LOOKS):
            yield replace(VERIFIED, now=NOW + timedelta(seconds=number * LOOK_SECONDS))

    def _told(self, draws: np.random.Generator, record: RolloutRecord) -> ProcessCounters:
        """Counters that have grown by the requests of one look."""
        last = _last(record)
        canary = self.requests / LOOKS_IN_A_STEP
        stable = canary * (100 - record.weight) / record.weight
        return ProcessCounters(
            process="p",
            stable=_grown(draws, last.stable, self.before, stable),
            canary=_grown(draws, last.canary, self.after, canary),
        )


def _last(record: RolloutRecord) -> ProcessCounters:
    assert record.counts is not None
    return record.counts.processes[0]


def _canary_requests(counters: ProcessCounters) -> int:
    return counters.canary[0]


def _grown(
    draws: np.random.Generator, before: tuple[int, ...], quality: Quality, expected: float
) -> tuple[int, ...]:
    requests = int(draws.poisson(expected))
    load = draws.lognormal(-(quality.drift**2) / 2, quality.drift)
    seconds = quality.seconds * load * draws.lognormal(-0.32, 0.8, requests).sum()
    failures = int(draws.binomial(requests, quality.errors))
    grown = (requests, failures, 0, 0, int(seconds * 1000), 0)
    return tuple(old + new for old, new in zip(before, grown, strict=True))


SIZES = (100, 300, 1000, 3000)
OLD = Quality()
RATE, INCREASE = (("maxErrorRate", "0.02"),), (("maxErrorRateIncrease", "0.02"),)
SLOWER = (("maxLatencyRatio", "1.5"),)
CASES: tuple[tuple[str, str, Quality, tuple[tuple[str, str], ...]], ...] = (
    ("maxErrorRate 0.02", "1 % fail, as before", OLD, RATE),
    ("maxErrorRate 0.02", "2 % fail, the limit", Quality(errors=0.02), RATE),
    ("maxErrorRate 0.02", "5 % fail", Quality(errors=0.05), RATE),
    ("maxErrorRate 0.02", "10 % fail", Quality(errors=0.10), RATE),
    ("maxErrorRateIncrease 0.02", "1 % fail, as before", OLD, INCREASE),
    ("maxErrorRateIncrease 0.02", "3 % fail, the limit", Quality(errors=0.03), INCREASE),
    ("maxErrorRateIncrease 0.02", "6 % fail", Quality(errors=0.06), INCREASE),
    ("maxErrorRateIncrease 0.02", "12 % fail", Quality(errors=0.12), INCREASE),
    ("maxLatencyRatio 1.5", "as fast as before", OLD, SLOWER),
    ("maxLatencyRatio 1.5", "1.5 times as slow, the limit", Quality(seconds=3.0), SLOWER),
    ("maxLatencyRatio 1.5", "twice as slow", Quality(seconds=4.0), SLOWER),
    ("maxLatencyRatio 1.5", "three times as slow", Quality(seconds=6.0), SLOWER),
)


def table(rollouts: int, seed: int) -> list[str]:
    """Lines of Markdown: per case and size how many of 100 rollouts were rolled back and promoted."""
    lines = ["| limit | the new version | " + " | ".join(f"{size} requests" for size in SIZES) + " |"]
    lines.append("|---|---|" + "---|" * len(SIZES))
    for limit, what, quality, limits in CASES:
        cells = [_cell(Trial(OLD, quality, limits, size).outcomes(rollouts, seed)) for size in SIZES]
        lines.append(f"| {limit} | {what} | " + " | ".join(cells) + " |")
    return lines


def costs(rollouts: int, seed: int) -> list[str]:
    """Lines of Markdown: how many requests a bad version gets before it is rolled back."""
    lines = ["| maxErrorRate | of the new version's requests fail | requests to it until it is rolled back |"]
    lines.append("|---|---|---|")
    for limit, errors in itertools.product(("0.01", "0.02", "0.05"), (0.1, 0.3, 1.0)):
        trial = Trial(OLD, Quality(errors=errors), (("maxErrorRate", limit),), 1000)
        lines.append(f"| {limit} | {errors:.0%} | {trial.requests_until_back(rollouts, seed):.0f} |")
    return lines


def _cell(outcomes: Counter[Any]) -> str:
    total = sum(outcomes.values())
    back, through = (100 * outcomes[kind] / total for kind in ("RolledBack", "Promoted"))
    return f"{back:.1f} / {through:.1f}"


if __name__ == "__main__":
    print("\n".join([*table(rollouts=300, seed=11), "", *costs(rollouts=300, seed=11)]))
