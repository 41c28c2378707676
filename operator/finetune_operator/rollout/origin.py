"""Where an artifact comes from: the base it was trained on, and the evaluation of its run."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.adapterdeployment import (
    AdapterDeployment,
    EvaluationOutcome,
    EvaluationRecord,
)
from finetune_operator.api.conditions import clip
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Artifact


@dataclass(frozen=True)
class Origin:
    """The fingerprint of the base, None where no run tells it, and the evaluation."""

    base_fingerprint: str | None
    evaluation: EvaluationRecord


_UNKNOWN = EvaluationRecord(
    outcome="Unknown",
    message="No FineTuneJob of this namespace shows this digest as its artifact (it may have been deleted), "
    "so how good it is is not known here; its manifest.json has what its own run found.",
)


def origin(deployment: AdapterDeployment, job: FineTuneJob | None, digest: str) -> Origin:
    """What is known of the artifact with this digest: by the run that published it, else what was noted."""
    artifact = job.status.artifact if job is not None else None
    if job is not None and artifact is not None and artifact.digest == digest:
        resolved = job.status.resolved
        return Origin(resolved.base_fingerprint if resolved is not None else None, _evaluation(job, artifact))
    noted = deployment.status.resolved
    if noted is None or noted.digest != digest:
        return Origin(None, _UNKNOWN)
    return Origin(noted.base_fingerprint, noted.evaluation or _UNKNOWN)


def _evaluation(job: FineTuneJob, artifact: Artifact) -> EvaluationRecord:
    outcome, scores, resolved = _outcome(artifact), job.status.scores, job.status.resolved
    evaluated = outcome != "NotEvaluated"
    return EvaluationRecord(
        outcome=outcome,
        fine_tune_job=job.metadata.name,
        verdict=artifact.verdict,
        delta=scores.delta if scores is not None and evaluated else None,
        holdout_digest=resolved.holdout_digest if resolved is not None and evaluated else None,
        message=clip(_words(job, artifact, outcome)),
    )


def _outcome(artifact: Artifact) -> EvaluationOutcome:
    """To go without an evaluation can be accepted; that makes it no evaluation."""
    if artifact.verdict == "EvalMissing":
        return "NotEvaluated"
    if not artifact.promoted:
        return "NotPromoted"
    return "Passed" if artifact.verdict == "Promote" else "Accepted"


def _words(job: FineTuneJob, artifact: Artifact, outcome: EvaluationOutcome) -> str:
    name, verdict = job.metadata.name, artifact.verdict or "no"
    promoted = job.status.condition("Promoted")
    said = promoted.message if promoted is not None else ""
    if outcome == "NotEvaluated":
        return (
            f"FineTuneJob {name} published it without an evaluation: nobody knows whether it beats its base."
        )
    if outcome == "NotPromoted":
        return f"The gate of FineTuneJob {name} said {verdict}; spec.allowUnpromoted serves it all the same."
    if outcome == "Accepted":
        return f"The gate of FineTuneJob {name} said {verdict}, which the run accepts. {said}".rstrip()
    return f"The gate of FineTuneJob {name} promoted it. {said}".rstrip()
