"""The verdicts before and after training, as pure functions of intervals (fractions, not per cent)."""

from collections.abc import Collection
from dataclasses import dataclass

from finetune_trainer.statistics import Interval

PROMPTING_ENOUGH = 0.85
SMALL_HEADROOM = 0.70
GOOD_CANDIDATE = 0.50
UNCERTAIN = 0.40
GRADED_SHARE = 0.98
_ROUNDING = 1e-9  # 0.55 - 0.50 must count as 0.05


@dataclass(frozen=True)
class BaselineVerdict:
    """What the base's score says about tuning it; blocking verdicts need the user's acceptance."""

    verdict: str
    blocking: bool


def baseline(score: Interval) -> BaselineVerdict:
    """Judge the base: blocking only when the whole interval lies beyond the threshold."""
    if score.score > PROMPTING_ENOUGH:
        return BaselineVerdict("PromptingLikelyEnough", score.low >= PROMPTING_ENOUGH)
    if score.score < UNCERTAIN:
        return BaselineVerdict("CheckTaskOrData", score.high < UNCERTAIN)
    if score.score >= SMALL_HEADROOM:
        return BaselineVerdict("SmallHeadroom", blocking=False)
    if score.score >= GOOD_CANDIDATE:
        return BaselineVerdict("GoodCandidate", blocking=False)
    return BaselineVerdict("Uncertain", blocking=False)


def after(delta: Interval, min_delta: float, graded: float, holds: Collection[bool] = ()) -> str:
    """Judge the tuned model by the paired difference and the share of rows that could be graded.

    `holds` says of each suite outside of the task whether no drop beyond its margin can have been missed.
    """
    if delta.high < 0:
        return "WorseThanBase"
    if not all(holds):
        return "Regressed"
    clear = delta.low > 0 and delta.score >= min_delta - _ROUNDING
    return "Promote" if clear and graded >= GRADED_SHARE else "NoClearImprovement"
