"""The verdicts before and after training, as pure functions of intervals (fractions, not per cent)."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune_trainer.gate.statistics import Interval

PROMPTING_ENOUGH = 0.85
SMALL_HEADROOM = 0.70
GOOD_CANDIDATE = 0.50
UNCERTAIN = 0.40
GRADED_SHARE = 0.98
UNGRADED = "Ungraded"
_ROUNDING = 1e-9  # 0.55 - 0.50 must count as 0.05


@dataclass(frozen=True)
class BaselineVerdict:
    """What the base's score says about tuning it; blocking verdicts need the user's acceptance."""

    verdict: str
    blocking: bool


@dataclass(frozen=True)
class NonInferiority:
    """A score that does not decide: tuned minus base, its one-sided 95 % lower bound, the loss allowed."""

    delta: float
    low: float
    margin: float

    @property
    def holds(self) -> bool:
        """Whether it is shown that the tuned model lost less than the margin."""
        return self.low > -self.margin


def baseline(score: Interval | None, graded: float = 1.0) -> BaselineVerdict:
    """Judge the base: blocking only when the whole interval lies beyond the threshold.

    `graded` is the share of rows that every grader could grade: with too few of them the tuned model could
    not be judged either, which must be known before it is trained. Without a score there is none at all.
    """
    if score is None or graded < GRADED_SHARE:
        return BaselineVerdict(UNGRADED, blocking=True)
    if score.score > PROMPTING_ENOUGH:
        return BaselineVerdict("PromptingLikelyEnough", score.low >= PROMPTING_ENOUGH)
    if score.score < UNCERTAIN:
        return BaselineVerdict("CheckTaskOrData", score.high < UNCERTAIN)
    if score.score >= SMALL_HEADROOM:
        return BaselineVerdict("SmallHeadroom", blocking=False)
    if score.score >= GOOD_CANDIDATE:
        return BaselineVerdict("GoodCandidate", blocking=False)
    return BaselineVerdict("Uncertain", blocking=False)


def after(delta: Interval, min_delta: float, graded: float, others: Iterable[NonInferiority] = ()) -> str:
    """Judge the tuned model by the paired difference, the graded share and what must not get worse.

    The first that applies: scores of few rows prove nothing, whatever they are; a model that got worse
    elsewhere is Regressed also where its improvement is not clear, since NoClearImprovement may be accepted.
    """
    if graded < GRADED_SHARE:
        return UNGRADED
    if delta.high < 0:
        return "WorseThanBase"
    if not all(other.holds for other in others):
        return "Regressed"
    clear = delta.low > 0 and delta.score >= min_delta - _ROUNDING
    return "Promote" if clear else "NoClearImprovement"
