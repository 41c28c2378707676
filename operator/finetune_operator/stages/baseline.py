"""baseline: score the base on the hold-out before any training; a blocking verdict ends the run (R5-R8)."""

from __future__ import annotations

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.manifests import text
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.engine import engine
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import scorer_resources
from finetune_operator.render.volumes import add_base, add_destination, base_path, common
from finetune_operator.stages import summaries
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.scores import points, rows_and_metric
from finetune_operator.stages.stage import Stage, Summary

_ADVICE = {
    "PromptingLikelyEnough": "That is above 85 %: a better prompt is probably enough.",
    "CheckTaskOrData": "That is below 40 %: check the task definition and the data first; a base that "
    "stays there with its best prompt and examples in it is not saved by tuning: take another.",
}


def parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The scorer with the base in an engine beside it; scores are cached beside the destination."""
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    add_destination(mounts, job)
    sidecar = engine(job, settings, base_path(job), mounts)
    return PodParts("baseline", mounts, scorer_resources(job), sidecars=(sidecar,))


def read(draft: Draft, outcome: AttemptOutcome) -> None:
    """Note the base's score; end the run if the verdict blocks and was not accepted."""
    summary = outcome.summary
    verdict = text(summary, "verdict")
    scored = f"The base scores {points(summary)} on {rows_and_metric(summary)}."
    draft.merge("scores", summaries.baseline_scores(summary))
    draft.set("BaselineScored", True, verdict, scored)
    if summary.get("blocking") is not True:
        return
    if verdict in draft.job.spec.accepted:
        draft.event("Normal", "Accepted", f"{verdict} is accepted by spec.evaluation.accept: {scored}")
        return
    _refuse(draft, verdict, scored)


def _refuse(draft: Draft, verdict: str, scored: str) -> None:
    advice = _ADVICE.get(verdict, "The verdict does not recommend training.")
    how = f"To train all the same, create a new FineTuneJob with {verdict} in spec.evaluation.accept."
    message = f"{scored} {advice} Nothing was trained. {how}"
    draft.set("Promoted", False, verdict, message)
    draft.end(succeeded=False, reason=verdict, message=message, stalled=False)


def _lacks(summary: Summary) -> str | None:
    return None if text(summary, "verdict") else "a verdict"


STAGE = Stage("baseline", "Baseline", "BaselineScored", "ScoringBase", parts, read, _lacks)
