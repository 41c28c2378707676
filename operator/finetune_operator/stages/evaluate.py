"""evaluate: score the tuned model on the same hold-out with the same engine flags, and compare row by row."""

from __future__ import annotations

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.manifests import mapping, text
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.engine import scoring_engine
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import scorer_resources
from finetune_operator.render.volumes import WORKSPACE, add_base, base_path, common
from finetune_operator.stages import summaries
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.scores import difference, points, rows_and_metric
from finetune_operator.stages.stage import Stage, Summary


def parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The scorer, and an engine with the base (it loads the adapter there) or with the tuned model (Full)."""
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    model = f"{WORKSPACE}/output/model" if job.spec.method == "Full" else base_path(job)
    sidecar = scoring_engine(job, settings, model, mounts)
    return PodParts("evaluate", mounts, scorer_resources(job, settings), sidecars=(sidecar,))


def read(draft: Draft, outcome: AttemptOutcome) -> None:
    """Note the comparison. Whatever the verdict, the result is published with it."""
    summary = outcome.summary
    draft.merge("scores", summaries.comparison(summary))
    draft.set("Evaluated", True, text(summary, "verdict"), compared(summary))


def compared(scores: Summary) -> str:
    """The comparison in one sentence, of a summary or of `status.scores`."""
    tuned, base, delta = (mapping(scores, side) for side in ("tuned", "base", "delta"))
    return (
        f"The tuned model scores {points(tuned)}, the base {points(base)}: {difference(delta)} "
        f"on {rows_and_metric(scores)}."
    )


def _lacks(summary: Summary) -> str | None:
    return None if text(summary, "verdict") else "a verdict"


STAGE = Stage("evaluate", "Evaluate", "Evaluated", "Evaluating", parts, read, _lacks)
