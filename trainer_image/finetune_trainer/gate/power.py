"""What a hold-out can show: the power of the paired comparison, before anything is trained.

Base and tuned model are taken to fail independently of each other. Models that fail on the same rows differ
on fewer, and then a smaller difference shows (Miller, arXiv 2411.00640, section 5): this is the careful side.
"""

import math

import numpy as np
from scipy.stats import binom, norm

ALPHA, POWER = 0.05, 0.80
_PRECISION = 1e-4
_TAILS = 8  # standard deviations beyond which no number of differing groups counts


def rows_needed(effect: float, differing: float) -> int:
    """Rows that show this mean difference with 80 % power, when so large a share of the rows differs.

    (z_0.975 + z_0.80)^2 (differing - effect^2) / effect^2, Miller's equation 9 for paired scores of 0 and 1.
    """
    quantiles = float(norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER))
    return math.ceil(quantiles**2 * (differing - effect**2) / effect**2)


def differing_share(base: float, effect: float) -> float:
    """The share of rows on which a base and a model better by `effect` differ when they are independent."""
    tuned = base + effect
    return base * (1 - tuned) + tuned * (1 - base)


def power(groups: int, base: float, effect: float) -> float:
    """How probable it is that the exact McNemar test at 5 % sees this effect on so many rows or groups.

    The number of groups that differ is binomial, and so are the wins among them; the normal formula of
    `rows_needed` promises up to ten points more than this on a hundred rows.
    """
    tuned = base + effect
    wins, share = tuned * (1 - base), differing_share(base, effect)
    if share == 0:
        return 0.0
    spread = _TAILS * math.sqrt(groups * share) + 1
    low, high = math.floor(groups * share - spread), math.ceil(groups * share + spread)
    differing = np.arange(max(0, low), min(groups, high) + 1)
    needed = binom.isf(ALPHA / 2, differing, 0.5)  # the test rejects with more wins than this
    seen = binom.sf(needed, differing, min(1.0, wins / share))
    return float(np.sum(binom.pmf(differing, groups, min(1.0, share)) * seen))


def detectable(groups: int, base: float) -> float | None:
    """The smallest improvement that so many rows or groups show with 80 % power; None when they show none.

    `base` is the base model's score; a group counts like one row, as if its rows were all alike.
    """
    low, high = 0.0, 1.0 - base
    if high <= 0 or power(groups, base, high) < POWER:
        return None
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if power(groups, base, middle) >= POWER else (middle, high)
    return high
