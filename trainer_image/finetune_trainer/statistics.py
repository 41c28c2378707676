"""Intervals (95 %) for scores and for paired differences, by the libraries that define them.

Sources: Wilson for shares; exact McNemar for paired binary scores; BCa bootstrap for graded ones
(Miller, arXiv 2411.00640; Bowyer et al., arXiv 2503.01747: no normal approximation under a few hundred rows).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap
from statsmodels.stats.proportion import proportion_confint

_ALPHA = 0.05
_RESAMPLES = 10_000
_SEED = 20_240_611
_CELLS = 4_000_000  # numbers held at once while resampling: 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    score: float
    low: float
    high: float


def score_interval(scores: Sequence[float]) -> Interval:
    """The mean of scores in [0, 1]: Wilson when all are 0 or 1, else BCa; ValueError without scores."""
    values = _values(scores)
    mean = float(values.mean())
    if _is_binary(values) or np.ptp(values) == 0:
        # Equal scores leave nothing to resample. A share has the largest variance that scores in [0, 1]
        # with this mean can have, so Wilson is then wider than needed, never narrower.
        low, high = proportion_confint(float(values.sum()), len(values), alpha=_ALPHA, method="wilson")
        return _clipped(mean, float(low), float(high), floor=0.0)
    return _bca(values, floor=0.0)


def paired_delta(base: Sequence[float], tuned: Sequence[float]) -> Interval:
    """The mean of tuned - base over the same rows; ValueError when the lengths differ or are 0."""
    if len(base) != len(tuned):
        raise ValueError(f"{len(base)} base scores cannot be paired with {len(tuned)} tuned scores")
    before, after = _values(base), _values(tuned)
    resampled = _resampled_delta(after - before)
    if not (_is_binary(before) and _is_binary(after)):
        return resampled
    exact = _mcnemar_interval(before, after)
    return Interval(resampled.score, min(resampled.low, exact.low), max(resampled.high, exact.high))


def _resampled_delta(difference: np.ndarray) -> Interval:
    return _all_equal(difference) if np.ptp(difference) < 1e-12 else _bca(difference, floor=-1.0)


def _mcnemar_interval(before: np.ndarray, after: np.ndarray) -> Interval:
    """The interval that belongs to the exact McNemar test: it leaves out 0 exactly when p <= 0.05.

    Given that n rows differ, the wins among them are binomial; the exact interval of that share p
    becomes one of the difference by (2p - 1) * n / rows. It takes n as known, so it is joined with the
    resampled one, which does not: together they leave out 0 only if the exact test agrees.
    """
    wins, losses = _discordant(before, after)
    differing, rows = wins + losses, len(before)
    if differing == 0:
        return _all_equal(after - before)
    low, high = proportion_confint(wins, differing, alpha=_ALPHA, method="beta")
    scale = differing / rows
    return _clipped((wins - losses) / rows, (2 * low - 1) * scale, (2 * high - 1) * scale, floor=-1.0)


def _all_equal(difference: np.ndarray) -> Interval:
    """When all n rows differ by the same d, a share of at most 1 - (alpha/2)^(1/n) can have been missed.

    That is the exact binomial bound for 0 of n; the missed rows may differ by anything from -1 to 1. The
    rows alone would claim an interval without any width.
    """
    mean = float(difference.mean())
    unseen = 1 - math.pow(_ALPHA / 2, 1 / len(difference))
    return _clipped(mean, mean - unseen * (1 + mean), mean + unseen * (1 - mean), floor=-1.0)


def _bca(values: np.ndarray, floor: float) -> Interval:
    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _CELLS // len(values)),
        confidence_level=1 - _ALPHA,
        method="BCa",
        rng=np.random.default_rng(_SEED),
    )
    interval = result.confidence_interval
    return _clipped(float(values.mean()), float(interval.low), float(interval.high), floor)


def _discordant(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    return int(np.sum(after > before)), int(np.sum(after < before))


def _clipped(mean: float, low: float, high: float, floor: float) -> Interval:
    return Interval(mean, max(floor, min(low, mean)), min(1.0, max(high, mean)))


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _values(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    if not len(values):
        raise ValueError("there are no scores")
    if not np.isfinite(values).all():
        raise ValueError("a score is not a number")
    return values
