"""baseline and evaluate: score the base before training, the tuned model on the same hold-out after."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_operator.api.conditions import Fact
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt, Scores
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Emit
from finetune_operator.core.manifests import text
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.engine import scoring_engine
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import scorer_resources
from finetune_operator.render.volumes import (
    WORKSPACE,
    add_base,
    add_destination,
    add_judge_credential,
    base_path,
    common,
)
from finetune_operator.stages import summaries
from finetune_operator.stages.decision import Decision, Ending, Stage, Summary, event
from finetune_operator.stages.summaries import difference, points, rows_and_metric

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
    add_judge_credential(mounts, job)
    sidecar = scoring_engine(job, settings, base_path(job), mounts)
    return PodParts("baseline", mounts, scorer_resources(job, settings), sidecars=(sidecar,))


def evaluate_parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The scorer, and an engine with the base (it loads the adapter there) or with the tuned model (Full)."""
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    add_judge_credential(mounts, job)
    model = f"{WORKSPACE}/output/model" if job.spec.method == "Full" else base_path(job)
    sidecar = scoring_engine(job, settings, model, mounts)
    return PodParts("evaluate", mounts, scorer_resources(job, settings), sidecars=(sidecar,))


def read_baseline(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:
    """Note the base's score; end the run if the verdict blocks and was not accepted."""
    summary, verdict = outcome.summary, text(outcome.summary, "verdict")
    scores = summaries.baseline_scores(summary)
    scored = f"The base scores {points(scores.base)} on {rows_and_metric(scores)}."
    facts = (Fact("BaselineScored", True, verdict, scored),)
    decision = Decision(facts=facts, scores=scores, actions=_warned(scores.warnings))
    if summary.get("blocking") is not True:
        return decision
    if verdict in job.spec.accepted:
        said = f"{verdict} is accepted by spec.evaluation.accept: {scored}"
        return decision.adding(actions=[event("Normal", "Accepted", said)])
    return _refused(decision, verdict, scored)


def read_evaluation(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:
    """Note the comparison. Whatever the verdict, the result is published with it."""
    scores = summaries.comparison(outcome.summary)
    known = job.status.scores.warnings if job.status.scores is not None else ()
    verdict = text(outcome.summary, "verdict")
    return Decision(
        facts=(Fact("Evaluated", True, verdict, compared(scores)),),
        scores=scores.model_copy(update={"warnings": summaries.joined(known, scores.warnings)}),
        actions=_warned(scores.warnings),
    )


def _warned(warnings: Sequence[str]) -> tuple[Emit, ...]:
    return (event("Warning", "ScoringWarning", " ".join(warnings)),) if warnings else ()


def compared(scores: Scores) -> str:
    """The comparison in one sentence."""
    return (
        f"The tuned model scores {points(scores.tuned)}, the base {points(scores.base)}: "
        f"{difference(scores.delta)} on {rows_and_metric(scores)}."
    )


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
