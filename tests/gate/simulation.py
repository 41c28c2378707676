"""How often the gate errs: many evaluations of models whose true scores are known.

Answers are right or wrong. `alike` is the share of the rows of a group that repeat the group's common answer,
so 1 makes all rows of a group equal, and 0 makes groups of independent rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np

from finetune_trainer.gate.power import detectable
from finetune_trainer.gate.statistics import paired_delta, paired_lower_bound, paired_test
from finetune_trainer.gate.verdicts import NonInferiority

_SEED = 7


@dataclass(frozen=True)
class Holdout:
    """A hold-out of so many rows in groups of this size (1: no groups)."""

    rows: int
    size: int = 1
    alike: float = 1.0

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return self.rows // self.size


@dataclass(frozen=True)
class Measured:
    """Shares of evaluations: promoted with no true difference, and seen at the effect that the hold-out shows.

    `ignored` is `promoted` as it would be if groups were not known; `effect` and `power` are None where no
    effect shows.
    """

    holdout: Holdout
    promoted: float
    ignored: float
    effect: float | None
    power: float | None


@dataclass(frozen=True)
class Kept:
    """Shares of evaluations in which a grader that does not decide holds its margin of five points.

    `unchanged` where the tuned model loses as many rows as it wins, `lost` where it truly loses the margin.
    """

    rows: int
    differing: float
    unchanged: float
    lost: float


def measure(holdout: Holdout, base: float, runs: int) -> Measured:
    """Evaluate models as good as the base, and models better by what the hold-out should show."""
    rng = np.random.default_rng(_SEED)
    same = _won(rng, holdout, base, base, runs)
    effect = detectable(holdout.groups, base)
    better = None if effect is None else _won(rng, holdout, base, base + effect, runs)
    return Measured(
        holdout=holdout,
        promoted=_improved(same, holdout.size),
        ignored=_improved(same.reshape(runs, holdout.rows, 1), 1),
        effect=effect,
        power=None if better is None else _improved(better, holdout.size),
    )


def measure_kept(rows: int, differing: float, runs: int, margin: float = 0.05) -> Kept:
    """Judge models by a grader that does not decide; `differing` is the share of rows that change."""
    rng = np.random.default_rng(_SEED)
    unchanged, lost = (
        rng.multinomial(rows, [(differing - loss) / 2, (differing + loss) / 2, 1 - differing], runs)
        for loss in (0.0, margin)
    )
    return Kept(rows, differing, _share_kept(rows, unchanged, margin), _share_kept(rows, lost, margin))


def _won(rng: np.random.Generator, holdout: Holdout, base: float, tuned: float, runs: int) -> np.ndarray:
    """Per run, group and row 1 for a win of the tuned model, -1 for a loss, else 0."""
    before, after = (_answers(rng, holdout, score, runs) for score in (base, tuned))
    return after.astype(int) - before.astype(int)


def _answers(rng: np.random.Generator, holdout: Holdout, score: float, runs: int) -> np.ndarray:
    shape = (runs, holdout.groups, holdout.size)
    own, common = rng.random(shape) < score, rng.random((*shape[:2], 1)) < score
    return np.where(rng.random(shape) < holdout.alike, common, own)


def _improved(won: np.ndarray, size: int) -> float:
    sums = won.sum(axis=2)
    seen = [_is_improvement(size, tuple(sorted(Counter(run.tolist()).items()))) for run in sums]
    return float(np.mean(seen))


@cache
def _is_improvement(size: int, counts: tuple[tuple[int, int], ...]) -> bool:
    """Whether the interval lies above 0 when so many groups have these sums; nothing else changes it."""
    sums = [total for total, count in counts for _ in range(count)]
    base = [float(place >= total) for total in sums for place in range(size)]
    tuned = [float(place >= -total) for total in sums for place in range(size)]
    groups = [f"g{number}" for number in range(len(sums)) for _ in range(size)] if size > 1 else None
    # An interval that leaves out 0 has p <= 0.05 (test_statistics), which is faster to know.
    may_be = sum(sums) > 0 and paired_test(base, tuned, groups).p_value <= 0.05
    return may_be and paired_delta(base, tuned, groups).low > 0


def _share_kept(rows: int, outcomes: np.ndarray, margin: float) -> float:
    return float(np.mean([_is_kept(rows, int(wins), int(losses), margin) for wins, losses, _ in outcomes]))


@cache
def _is_kept(rows: int, wins: int, losses: int, margin: float) -> bool:
    same = [1.0] * (rows - wins - losses)
    base, tuned = [0.0] * wins + [1.0] * losses + same, [1.0] * wins + [0.0] * losses + same
    return NonInferiority((wins - losses) / rows, paired_lower_bound(base, tuned), margin).holds
