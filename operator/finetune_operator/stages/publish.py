"""publish: the adapter with its manifest, whatever the verdict; then the run is concluded (R42)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.contracts.documents import PublishSpec
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.manifests import mapping, text
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import stage_resources
from finetune_operator.render.volumes import add_base, add_destination, common
from finetune_operator.stages import summaries
from finetune_operator.stages.draft import Draft
from finetune_operator.stages.evaluate import compared
from finetune_operator.stages.stage import Stage, Summary, evaluated

_ADVICE = {
    "NoClearImprovement": "That is no clear improvement: the data or the setup is wrong. Look at the labels "
    "and the worst rows first, they are the cause most of the time.",
    "WorseThanBase": "Training made the model worse: look for wrong or contradictory labels first, then "
    "train for fewer epochs or with a lower learning rate.",
    "Regressed": "The model got worse elsewhere: train for fewer epochs, with a lower learning rate, or with "
    "general data mixed in.",
}
_ACCEPTABLE = ("NoClearImprovement",)


def parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:  # noqa: ARG001
    """A CPU pod that copies the result to its destination."""
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    add_destination(mounts, job)
    return PodParts("publish", mounts, stage_resources(job))


def decision(job: FineTuneJob) -> PublishSpec:
    """Whether the result is promoted: the gate said so, or the user accepted what it said."""
    verdict = _verdict(job, job.status.scores.verdict if job.status.scores is not None else None)
    promoted = verdict == "Promote" or verdict in job.spec.accepted
    return PublishSpec(promoted=promoted, verdict=verdict, accepted=tuple(sorted(job.spec.accepted)))


def read(draft: Draft, outcome: AttemptOutcome) -> None:
    """Note what was published."""
    destination = draft.job.spec.output.destination
    draft.status["artifact"] = summaries.artifact(outcome.summary, destination)
    draft.set("Published", True, outcome.reason, outcome.message or f"The result is at {destination}.")


def conclude(draft: Draft) -> None:
    """End the run by the verdict that is in the published manifest."""
    published: Mapping[str, Any] = mapping(draft.status, "artifact")
    verdict = text(published, "verdict") or _verdict(draft.job, None)
    message = _reasons(draft, verdict)
    if published.get("promoted") is True:
        reason = "Promote" if verdict == "Promote" else "Accepted"
        accepted = "" if verdict == "Promote" else f" {verdict} is accepted by spec.evaluation.accept."
        draft.set("Promoted", True, reason, message + accepted)
        draft.end(succeeded=True, reason=reason, message=message + accepted, stalled=False)
        return
    where = text(published, "destination") or draft.job.spec.output.destination
    message = f"{message} {_ADVICE.get(verdict, '')} {_afterwards(verdict, where)}".replace("  ", " ")
    draft.set("Promoted", False, verdict, message)
    draft.end(succeeded=False, reason=verdict, message=message, stalled=False)


def _reasons(draft: Draft, verdict: str) -> str:
    if verdict == "EvalMissing":
        return "The result was published without an evaluation: nobody knows whether it beats its base."
    return compared(mapping(draft.status, "scores"))


def _afterwards(verdict: str, where: str) -> str:
    how = ""
    if verdict in _ACCEPTABLE:
        how = f", a new FineTuneJob may list {verdict} in spec.evaluation.accept"
    return (
        f"The result is at {where} with promoted: false; an AdapterDeployment serves it only with "
        f"allowUnpromoted: true{how}."
    )


def _verdict(job: FineTuneJob, scored: str | None) -> str:
    return scored or ("Unknown" if evaluated(job) else "EvalMissing")


def _lacks(summary: Summary) -> str | None:
    return None if summaries.artifact(summary, "") is not None else "the digest of what was published"


STAGE = Stage("publish", "Publish", "Published", "Publishing", parts, read, _lacks)
