"""baseline and evaluate: score the base before training, the tuned model on the same hold-out after."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.conditions import Fact
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, Scores
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.manifests import text
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.engine import scoring_engine
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import scorer_resources
from finetune_operator.render.volumes import WORKSPACE, add_base, add_destination, base_path, common
from finetune_operator.stages import summaries
from finetune_operator.stages.decision import Decision, Ending, Stage, Summary, event
from finetune_operator.stages.summaries import as_number, best_rival, difference, points, rows_and_metric

_ADVICE = {
    "PromptingLikelyEnough": "That is above 85 %: a better prompt is probably enough.",
    "CheckTaskOrData": "That is below 40 %: check the task definition and the data first; a base that stays "
    "there with its best prompt and examples in it is not saved by tuning: take another.",
}


def baseline_parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The scorer with the base in an engine beside it; scores are cached beside the destination."""
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    add_destination(mounts, job)
    sidecar = scoring_engine(job, settings, base_path(job), mounts)
    return PodParts("baseline", mounts, scorer_resources(job, settings), sidecars=(sidecar,))


def evaluate_parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The scorer, and an engine with the base (it loads the adapter there) or with the tuned model (Full)."""
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    model = f"{WORKSPACE}/output/model" if job.spec.method == "Full" else base_path(job)
    sidecar = scoring_engine(job, settings, model, mounts)
    return PodParts("evaluate", mounts, scorer_resources(job, settings), sidecars=(sidecar,))


def read_baseline(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:
    """Note the base's score; end the run if the verdict blocks and was not accepted."""
    summary, verdict = outcome.summary, text(outcome.summary, "verdict")
    scores = summaries.baseline_scores(summary)
    scored = f"The base scores {points(scores.base)} on {rows_and_metric(scores)}{_prompted(scores)}."
    decision = Decision(facts=(Fact("BaselineScored", True, verdict, scored),), scores=scores)
    if summary.get("blocking") is not True:
        return decision
    if verdict in job.spec.accepted:
        said = f"{verdict} is accepted by spec.evaluation.accept: {scored}"
        return decision.adding(actions=[event("Normal", "Accepted", said)])
    return _refused(decision, verdict, scored)


def read_evaluation(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:  # noqa: ARG001 - as every stage
    """Note the comparison. Whatever the verdict, the result is published with it."""
    scores = summaries.comparison(outcome.summary)
    verdict = text(outcome.summary, "verdict")
    return Decision(facts=(Fact("Evaluated", True, verdict, compared(scores)),), scores=scores)


def compared(scores: Scores) -> str:
    """The comparison in a sentence, and what speaks against the tuned model beside it."""
    text = (
        f"The tuned model scores {points(scores.tuned)}, the base {points(scores.base)}: "
        f"{difference(scores.delta)} on {rows_and_metric(scores)}."
    )
    return " ".join([text, *_rivalled(scores), *_lost(scores)])


def _prompted(scores: Scores) -> str:
    best = best_rival(scores)
    return "" if best is None else f", and {points(best[1])} with the prompt {best[0]}"


def _rivalled(scores: Scores) -> Iterator[str]:
    """The best prompt, where the tuned model is not clearly better than the base with it."""
    best, low = best_rival(scores), as_number(scores.tuned.low) if scores.tuned is not None else None
    if best is not None and low is not None and (as_number(best[1].score) or 0.0) >= low:
        yield f"With the prompt {best[0]} the base alone scores {points(best[1])}: it may be enough."


def _lost(scores: Scores) -> Iterator[str]:
    for name, suite in scores.regression.items():
        if suite.holds is False:
            yield (
                f"On {name} it scores {_percent(suite.tuned)}, the base {_percent(suite.base)}: the drop may "
                f"be as large as {_percent(suite.low, -1)}, {_percent(suite.margin)} are allowed."
            )


def _percent(value: str | None, sign: int = 1) -> str:
    found = as_number(value)
    return "an unknown score" if found is None else f"{100 * sign * found:.1f} %"


def _refused(decision: Decision, verdict: str, scored: str) -> Decision:
    advice = _ADVICE.get(verdict, "The verdict does not recommend training.")
    how = f"To train all the same, create a new FineTuneJob with {verdict} in spec.evaluation.accept."
    message = f"{scored} {advice} Nothing was trained. {how}"
    ending = Ending(succeeded=False, reason=verdict, message=message)
    return decision.adding(Fact("Promoted", False, verdict, message)).ending_in(ending)


def _lacks(summary: Summary) -> str | None:
    return None if text(summary, "verdict") else "a verdict"


BASELINE = Stage(
    "baseline", "Baseline", "BaselineScored", "ScoringBase", baseline_parts, read_baseline, _lacks
)
EVALUATE = Stage("evaluate", "Evaluate", "Evaluated", "Evaluating", evaluate_parts, read_evaluation, _lacks)
