"""What a sample proves about a share or a mean: bounds that the true value lies beyond only by rare chance.

For shares this is Chernoff's bound: k of n requests, or more, happen with a probability of at most
exp(-n * KL(k/n, p)) when the true share is p. It holds for every n, so that two failures of two requests
prove little. Means are compared by the spread of their batches, since the answers of one moment resemble each
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log, sqrt

CHANCE = 0.005
"""How often one bound may be wrong; docs/rollouts.md says what comes of it over a rollout."""
_DEVIATIONS = 3.0  # of a normal distribution, beyond which lies less than CHANCE
LEAST_BATCHES = 10


@dataclass(frozen=True)
class Count:
    """`hits` of `total` requests."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        """The share of the sample, 0 of an empty one."""
        return self.hits / self.total if self.total else 0.0

    @property
    def at_least(self) -> float:
        """The smallest true share that explains so many hits."""
        return _edge(self.share, 0.0, self.total)

    @property
    def at_most(self) -> float:
        """The largest true share that explains so few hits."""
        return _edge(self.share, 1.0, self.total)


@dataclass(frozen=True)
class Mean:
    """The mean of `total` values from their sum, and the sum over `batches` of (sum of a batch)^2 / size."""

    sum: float
    total: int
    batches: int
    squares: float

    @property
    def value(self) -> float:
        """The mean of the sample, 0 of an empty one."""
        return self.sum / self.total if self.total else 0.0

    @property
    def error(self) -> float:
        """Standard error relative to the mean; infinite where too few batches tell of the spread."""
        if self.batches < LEAST_BATCHES or self.sum <= 0:
            return inf
        spread = max(self.squares - self.sum * self.value, 0.0) / (self.batches - 1)
        return sqrt(spread / self.total) / self.value


def least_increase(before: Count, after: Count) -> float:
    """The smallest difference of the true shares that explains both samples (Newcombe's combination)."""
    down, up = after.share - after.at_least, before.at_most - before.share
    return after.share - before.share - sqrt(down**2 + up**2)


def ratio(before: Mean, after: Mean) -> float:
    """How many times as large the mean is as before; 1 where either is unknown."""
    return after.value / before.value if before.value > 0 and after.total else 1.0


def least_ratio(before: Mean, after: Mean) -> float:
    """The smallest ratio of the true means that explains both samples."""
    error = sqrt(before.error**2 + after.error**2)
    return 0.0 if error == inf else ratio(before, after) * exp(-_DEVIATIONS * error)


def _edge(share: float, end: float, total: int) -> float:
    """Where, from `share` towards `end`, the sample becomes less likely than CHANCE."""
    if total == 0:
        return end
    inside, outside = share, end
    for _ in range(40):
        middle = (inside + outside) / 2
        if total * _divergence(share, middle) < -log(CHANCE):
            inside = middle
        else:
            outside = middle
    return inside


def _divergence(share: float, true: float) -> float:
    """Kullback-Leibler divergence of two shares."""
    return _term(share, true) + _term(1 - share, 1 - true)


def _term(share: float, true: float) -> float:
    if share == 0:
        return 0.0
    return share * log(share / true) if true > 0 else inf
