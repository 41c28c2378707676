"""Intervals and tests for scores and for paired differences, resampled by group.

Rows of one group (a patient, a document, a conversation) are alike, so groups are drawn, not rows: 30 groups
of 5 equal rows say no more than 30 rows (Miller, arXiv 2411.00640, section 2.2; Bowyer et al., arXiv
2503.01747: no normal approximation under a few hundred rows). A row without a group is a group of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap, norm

_ALPHA = 0.05
_RESAMPLES = 10_000
_MOST_DRAWN = 200_000_000  # numbers drawn for one interval: seconds; more rows get fewer resamples
_CELLS = 4_000_000  # numbers held at once while resampling: 32 MB
_ALL_SUBSETS = 13  # so many groups have fewer subsets than are drawn: all are taken
_MOST_JACKKNIFED = 10_000  # BCa leaves out every group once, in time that grows with the square
_SEED = 20_240_611
_EQUAL = 1e-12

Groups = Sequence[str | None]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    score: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """The two-sided p-value of "base and tuned score alike", and the test that gave it."""

    p_value: float
    name: str


@dataclass(frozen=True)
class _Clusters:
    """Per group the sum of its values and its number of rows, in an order that no row order changes."""

    sums: np.ndarray
    sizes: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def alone(self) -> bool:
        return bool((self.sizes == 1).all())

    @property
    def equal(self) -> bool:
        return bool(np.ptp(self.sums / self.sizes) < _EQUAL)

    def __len__(self) -> int:
        return len(self.sums)


def score_interval(scores: Sequence[float], groups: Groups | None = None) -> Interval:
    """The mean of scores in [0, 1]; ValueError without scores.

    Wilson's interval for shares without groups (Wilson 1927), else that of `_resampled`.
    """
    values = _values(scores)
    clusters = _clusters(values, groups)
    if (clusters.alone and _is_binary(values)) or clusters.equal:
        # Equal groups leave nothing to resample. A share has the largest variance that scores in [0, 1]
        # with this mean can have, so Wilson is then wider than needed, never narrower.
        return _wilson(clusters.mean, len(clusters))
    return _resampled(clusters, _ALPHA, floor=0.0)


def paired_delta(base: Sequence[float], tuned: Sequence[float], groups: Groups | None = None) -> Interval:
    """The mean of tuned - base over the same rows; ValueError when the lengths differ or are 0."""
    return _paired(base, tuned, groups, _ALPHA)


def paired_lower_bound(base: Sequence[float], tuned: Sequence[float], groups: Groups | None = None) -> float:
    """The one-sided 95 % lower bound of the mean of tuned - base; the mean itself where no row lost.

    Tango's for shares without groups, else the resampled one. Without a loss nothing speaks for one, while a
    bound for what was not seen would ask for 59 rows before it said so.
    """
    before, after = _pair(base, tuned)
    clusters = _clusters(after - before, groups)
    if (after >= before).all():
        return clusters.mean
    if clusters.alone and _is_binary(before) and _is_binary(after):
        return _tango_bound(*_discordant(before, after), len(before))
    return _paired(base, tuned, groups, 2 * _ALPHA).low


def paired_test(base: Sequence[float], tuned: Sequence[float], groups: Groups | None = None) -> PairedTest:
    """Exact McNemar for shares without groups, else the sign-flip test (Fisher 1935) over the groups.

    The interval of `paired_delta` leaves out 0 only where this test has p <= 0.05.
    """
    before, after = _pair(base, tuned)
    clusters = _clusters(after - before, groups)
    if clusters.alone and _is_binary(before) and _is_binary(after):
        wins, losses = _discordant(before, after)
        p_value = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
        return PairedTest(p_value, "exact McNemar")
    means = _subset_means(clusters)
    as_far = min(int((means <= _EQUAL).sum()), int((means >= -_EQUAL).sum()))
    name = "sign-flip by row" if clusters.alone else "sign-flip by group"
    return PairedTest(min(1.0, 2 * (1 + as_far) / (1 + len(means))), name)


def count_groups(groups: Groups) -> int:
    """How many groups there are, rows without one counted as groups of one."""
    return len({group for group in groups if group is not None}) + sum(group is None for group in groups)


def _wilson(share: float, count: int) -> Interval:
    quantile = float(norm.ppf(1 - _ALPHA / 2)) ** 2 / count
    centre = (share + quantile / 2) / (1 + quantile)
    half = math.sqrt(quantile * (share * (1 - share) + quantile / 4)) / (1 + quantile)
    return _clipped(share, centre - half, centre + half, floor=0.0)


def _paired(base: Sequence[float], tuned: Sequence[float], groups: Groups | None, alpha: float) -> Interval:
    before, after = _pair(base, tuned)
    clusters = _clusters(after - before, groups)
    if clusters.equal:
        return _all_equal(clusters, alpha)
    if clusters.alone and _is_binary(before) and _is_binary(after):
        exact = _mcnemar_interval(before, after, alpha)
        return _joined(_bca(clusters, alpha, floor=-1.0), exact)
    return _resampled(clusters, alpha, floor=-1.0)


def _mcnemar_interval(before: np.ndarray, after: np.ndarray, alpha: float) -> Interval:
    """The interval that belongs to the exact McNemar test: it leaves out 0 exactly when p <= alpha.

    Given that n rows differ, the wins among them are binomial; the exact interval of that share p (Clopper
    and Pearson 1934) becomes one of the difference by (2p - 1) * n / rows. It takes n as known, so it is
    joined with the resampled one, which does not.
    """
    wins, losses = _discordant(before, after)
    differing, rows = wins + losses, len(before)
    share = binomtest(wins, differing).proportion_ci(1 - alpha, method="exact")
    low, high = ((2 * bound - 1) * differing / rows for bound in (share.low, share.high))
    return _clipped((wins - losses) / rows, low, high, floor=-1.0)


def _tango_bound(wins: int, losses: int, rows: int) -> float:
    """The smallest difference of paired shares that the score test at 5 % does not reject (Tango 1998).

    "Equivalence test and confidence interval for the difference in proportions for the paired-sample design".
    """
    limit = float(norm.ppf(1 - _ALPHA))
    lowest, mean = -1 + _EQUAL, (wins - losses) / rows
    if mean <= lowest or _tango_score(lowest, wins, losses, rows) < limit:
        return -1.0
    return float(brentq(lambda delta: _tango_score(delta, wins, losses, rows) - limit, lowest, mean))


def _tango_score(delta: float, wins: int, losses: int, rows: int) -> float:
    """By how many standard errors the observed difference exceeds `delta`, if that is the true one."""
    linear = (2 * rows - wins + losses) * delta - wins - losses
    root = math.sqrt(linear**2 + 8 * rows * losses * delta * (1 - delta))
    lost = (root - linear) / (4 * rows)  # the likeliest share of losses then
    return (wins - losses - rows * delta) / math.sqrt(rows * (2 * lost + delta * (1 - delta)))


def _all_equal(clusters: _Clusters, alpha: float) -> Interval:
    """When all n groups differ by the same d, a share of at most 1 - (alpha/2)^(1/n) can have been missed.

    That is the exact binomial bound for 0 of n; the missed ones may differ by anything from -1 to 1. The
    groups alone would claim an interval without any width.
    """
    mean = clusters.mean
    unseen = 1 - math.pow(alpha / 2, 1 / len(clusters))
    return _clipped(mean, mean - unseen * (1 + mean), mean + unseen * (1 - mean), floor=-1.0)


def _resampled(clusters: _Clusters, alpha: float, floor: float) -> Interval:
    """BCa is too narrow for few groups, where subsets know nothing at all; subsets take symmetry for granted.

    Together they leave out a value only if both do.
    """
    return _joined(_bca(clusters, alpha, floor), _subset_interval(clusters, alpha, floor))


def _bca(clusters: _Clusters, alpha: float, floor: float) -> Interval:
    """The BCa bootstrap over groups (Efron 1987), plain percentiles for many thousand of them."""
    count = len(clusters)
    result = bootstrap(
        (clusters.sums, clusters.sizes),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=_draws(count),
        batch=max(1, _CELLS // count),
        confidence_level=1 - alpha,
        method="BCa" if count <= _MOST_JACKKNIFED else "percentile",
        rng=np.random.default_rng(_SEED),
    )
    interval = result.confidence_interval
    return _clipped(clusters.mean, float(interval.low), float(interval.high), floor)


def _subset_interval(clusters: _Clusters, alpha: float, floor: float) -> Interval:
    """What the sign-flip test over groups does not reject: quantiles of the means of random subsets.

    Exact for every number of groups whose values lie evenly around the mean (Hartigan 1969, "Using
    subsample values as typical values"). Fewer than 6 groups reject nothing at 5 %.
    """
    means = np.sort(_subset_means(clusters))
    beyond = math.floor(alpha / 2 * (len(means) + 1))
    if beyond == 0:
        return Interval(clusters.mean, floor, 1.0)
    return _clipped(clusters.mean, float(means[beyond - 1]), float(means[-beyond]), floor)


def _subset_means(clusters: _Clusters) -> np.ndarray:
    """The means of all subsets of the groups but the empty one, or of as many random ones."""
    count = len(clusters)
    if count <= _ALL_SUBSETS:
        chosen = (np.arange(1, 2**count)[:, None] >> np.arange(count)) & 1
        return _means_of(chosen.astype(float), clusters)
    rng, draws, at_once = np.random.default_rng(_SEED), _draws(count), max(1, _CELLS // count)
    sizes = [min(at_once, draws - start) for start in range(0, draws, at_once)]
    return np.concatenate([_means_of(rng.integers(0, 2, (size, count)) * 1.0, clusters) for size in sizes])


def _means_of(chosen: np.ndarray, clusters: _Clusters) -> np.ndarray:
    chosen = chosen[chosen.any(axis=1)]
    return np.asarray((chosen @ clusters.sums) / (chosen @ clusters.sizes))


def _ratio(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis))


def _draws(count: int) -> int:
    return max(1_000, min(_RESAMPLES, _MOST_DRAWN // count))


def _joined(first: Interval, second: Interval) -> Interval:
    """The interval that holds both; bounds that are no numbers are those of the other one."""
    return Interval(
        first.score, float(np.fmin(first.low, second.low)), float(np.fmax(first.high, second.high))
    )


def _discordant(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    return int(np.sum(after > before)), int(np.sum(after < before))


def _clipped(mean: float, low: float, high: float, floor: float) -> Interval:
    """The interval within [floor, 1] and around its mean; a bound that is no number stays one."""
    return Interval(mean, float(np.clip(low, floor, mean)), float(np.clip(high, mean, 1.0)))


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _clusters(values: np.ndarray, groups: Groups | None) -> _Clusters:
    if groups is None:
        return _Clusters(np.sort(values), np.ones(len(values)))
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} scores cannot have {len(groups)} groups")
    places: dict[str | int, int] = {}
    at = np.array(
        [places.setdefault(row if name is None else name, len(places)) for row, name in enumerate(groups)]
    )
    rows = np.argsort(values)  # sums of floats depend on their order
    sums, sizes = np.bincount(at[rows], weights=values[rows]), np.bincount(at).astype(float)
    order = np.lexsort((sizes, sums))
    return _Clusters(sums[order], sizes[order])


def _pair(base: Sequence[float], tuned: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    if len(base) != len(tuned):
        raise ValueError(f"{len(base)} base scores cannot be paired with {len(tuned)} tuned scores")
    return _values(base), _values(tuned)


def _values(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    if not len(values):
        raise ValueError("there are no scores")
    if not np.isfinite(values).all():
        raise ValueError("a score is not a number")
    return values
