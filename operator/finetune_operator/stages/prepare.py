"""prepare: fetch, check and tokenise on the CPU, before any GPU pod exists; or adopt what is published."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.api.conditions import Fact
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.contracts.digests import spec_digest
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.manifests import mapping, number
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.pod import PodParts
from finetune_operator.render.resources import cpu_stage_resources, in_gib
from finetune_operator.render.volumes import add_base, add_credentials, add_data, add_destination, common
from finetune_operator.stages import summaries
from finetune_operator.stages.decision import Decision, Stage, Summary, event


def parts(job: FineTuneJob, settings: Settings, attempt: Attempt) -> PodParts:
    """The only pod that fetches from outside, with credentials, and that sees the data."""
    mounts = common(job, attempt.job)
    add_base(mounts, job)
    add_data(mounts, job)
    add_destination(mounts, job)
    add_credentials(mounts, job)
    places = {
        "HF_ENDPOINT": settings.hub_endpoint,
        "FT_S3_ENDPOINT": settings.s3.endpoint,
        "FT_S3_REGION": settings.s3.region,
    }
    env = {name: value for name, value in places.items() if value}
    return PodParts("prepare", mounts, cpu_stage_resources(settings), env)


def read(job: FineTuneJob, outcome: AttemptOutcome) -> Decision:
    """Note pins, counts, plan and estimate; an adopted result ends the run: the work was done before."""
    summary = outcome.summary
    message = outcome.message or _counts(summary)
    decision = Decision(
        facts=(Fact("Validated", True, outcome.reason, message),),
        resolved=summaries.resolved(summary, spec_digest(job.spec)),
        plan=summaries.memory_plan(summary),
        cost=summaries.expected_cost(summary),
    )
    found = [*summaries.advice(summary), *_short_of_memory(job, summary)]
    if found:
        advised = Fact("Advised", True, found[0][0], " ".join(said for _, said in found))
        decision = decision.adding(advised, actions=[event("Warning", "Advised", advised.message)])
    return _adopting(job, summary, decision) if summary.get("adopted") is True else decision


def _short_of_memory(job: FineTuneJob, summary: Summary) -> list[tuple[str, str]]:
    """What a pod needs of its node is an estimate, so too little is said and not refused."""
    given, needed = in_gib(job.spec.resources.memory), number(mapping(summary, "memory"), "hostGiB")
    if given is None or needed is None or needed <= given:
        return []
    text = f"Each training pod needs about {needed:.1f} GiB of its node and gets {job.spec.resources.memory}"
    return [("LittleMemory", f"{text}, so it may be OOM-killed: raise spec.resources.memory in a new run.")]


def _adopting(job: FineTuneJob, summary: Summary, decision: Decision) -> Decision:
    destination = job.spec.output.destination
    message = f"{destination} already holds the result of this spec; it is adopted and nothing runs again."
    kinds = ("BaselineScored", "Trained", "Evaluated", "Published")
    return replace(
        decision.adding(*(Fact(kind, True, "Adopted", message) for kind in kinds)),
        scores=summaries.comparison(mapping(summary, "scores")),
        artifact=summaries.artifact(mapping(summary, "artifact"), destination),
    )


def _lacks(summary: Summary) -> str | None:
    if summary.get("adopted") is True and summaries.artifact(mapping(summary, "artifact"), "") is None:
        return "the digest of the result to adopt"
    return None


def _counts(summary: Summary) -> str:
    rows, holdout = summary.get("rows", "All"), summary.get("holdoutRows", 0)
    return f"{rows} training rows and {holdout} held-out rows are usable."


STAGE = Stage("prepare", "Prepare", "Validated", "Preparing", parts, read, _lacks)
