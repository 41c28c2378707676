"""publish: the adapter with its manifest, whatever the verdict; then the run is concluded."""

from __future__ import annotations

from finetune_operator.api.conditions import Fact
from finetune_operator.api.evaluation.scores import Scores
from finetune_operator.api.evaluation.spec import ACCEPTABLE
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Artifact, Attempt
from finetune_operator.contracts.job import PublishSpec
from finetune_operator.contracts.settings import Settings
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import cpu_stage_resources
from finetune_operator.render.volumes import add_base, add_destination, add_export_credentials, common
from finetune_operator.stages import summaries
from finetune_operator.stages.decision import Decision, Ending, Stage, Summary, evaluated
from finetune_operator.stages.scoring import compared

_ADVICE = {
    "NoClearImprovement": "That is no clear improvement: the data or the setup is wrong. Look at the labels "
    "and the worst rows first, they are the cause most of the time.",
    "WorseThanBase": "Training made the model worse: look for wrong or contradictory labels first, then "
    "train for fewer epochs or with a lower learning rate.",
    "Regressed": "The model got worse elsewhere: train for fewer epochs, with a lower learning rate, or with "
    "general data mixed in. If the scores hardly differ, more held-out rows can show that nothing was lost.",
    "Ungraded": "With fewer than 98 % of the rows graded nothing is known, neither about the model nor about "
    "the data: mend what the reason names and evaluate in a new FineTuneJob.",
}


def parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """A CPU pod that copies the result to its destination."""
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    add_destination(mounts, job)
    add_export_credentials(mounts, job)
    return PodParts("publish", mounts, cpu_stage_resources(settings))


def decision(job: FineTuneJob, scores: Scores | None) -> PublishSpec:
    """Whether the result is promoted: the gate said so, or the user accepted what it said."""
    verdict = _verdict(job, scores.verdict if scores is not None else None)
    promoted = verdict == "Promote" or verdict in job.spec.accepted
    return PublishSpec(promoted=promoted, verdict=verdict, accepted=tuple(sorted(job.spec.accepted)))


def read(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:
    """Note what was published."""
    destination = job.spec.output.destination
    message = outcome.message or f"The result is at {destination}."
    return Decision(
        facts=(Fact("Published", True, outcome.reason, message),),
        artifact=summaries.artifact(outcome.summary, destination),
    )


def conclude(job: FineTuneJob, artifact: Artifact, scores: Scores | None) -> Decision:
    """End the run by the verdict that is in the published manifest."""
    verdict = artifact.verdict or _verdict(job, None)
    message = _reasons(verdict, scores)
    if artifact.promoted:
        reason = "Promote" if verdict == "Promote" else "Accepted"
        accepted = "" if verdict == "Promote" else f" {verdict} is accepted by spec.evaluation.accept."
        return _ended(Ending(succeeded=True, reason=reason, message=message + accepted))
    shown = _shows(scores) if verdict == "NoClearImprovement" else ""
    said = [message, _ADVICE.get(verdict, ""), shown, _afterwards(verdict, artifact.destination)]
    return _ended(Ending(succeeded=False, reason=verdict, message=" ".join(filter(None, said))))


def _ended(ending: Ending) -> Decision:
    promoted = Fact("Promoted", ending.succeeded, ending.reason, ending.message)
    return Decision(facts=(promoted,)).ending_in(ending)


def _reasons(verdict: str, scores: Scores | None) -> str:
    if verdict == "EvalMissing":
        return "The result was published without an evaluation: nobody knows whether it beats its base."
    return compared(scores or Scores())


def _shows(scores: Scores | None) -> str:
    """Whether the hold-out could have shown more."""
    effect = None if scores is None else scores.detectable
    if effect is None:
        return ""
    if effect == "none":
        return "This hold-out can show no improvement: give it more rows or groups."
    return f"This hold-out shows improvements from {effect} on; more rows show smaller ones."


def _afterwards(verdict: str, where: str) -> str:
    how = ""
    if verdict in ACCEPTABLE:
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
