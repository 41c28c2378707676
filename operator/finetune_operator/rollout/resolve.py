"""From what the user named to one immutable artifact: a source and the digest of its manifest."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.adapterdeployment import AdapterDeployment, ResolvedAdapter
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.render.names import version_name
from finetune_operator.rollout.origin import origin


@dataclass(frozen=True)
class Resolution:
    """`target` is `status.resolved` (the last good one when `current` is False, None before the first)."""

    target: ResolvedAdapter | None
    current: bool
    reason: str
    message: str


def resolve(deployment: AdapterDeployment, job: FineTuneJob | None) -> Resolution:
    """What should be served. While a new adapter is not available the earlier target stays in force."""
    adapter = deployment.spec.adapter
    if adapter.fine_tune_job_ref is None:
        assert adapter.source is not None
        assert adapter.digest is not None
        return _found(deployment, adapter.source, adapter.digest, job)
    name = adapter.fine_tune_job_ref.name
    if job is None:
        return _without_job(deployment, name)
    problem = _problem(deployment, job)
    if problem is not None:
        return Resolution(deployment.status.resolved, False, *problem)
    assert job.status.artifact is not None
    return _found(deployment, job.status.artifact.destination, job.status.artifact.digest, job, name)


def _problem(deployment: AdapterDeployment, job: FineTuneJob) -> tuple[str, str] | None:
    name, artifact = job.metadata.name, job.status.artifact
    if job.spec.method == "Full":
        text = (
            f"FineTuneJob {name} tunes a whole model, not an adapter; serve it as the base of a ModelServer."
        )
        return "UnsupportedAdapter", text
    ended = job.status.condition("Succeeded")
    if artifact is None or not artifact.digest:
        if ended is not None and ended.status == "False":
            return "FineTuneJobFailed", f"FineTuneJob {name} published nothing: {ended.message}"
        return "WaitingForFineTuneJob", f"FineTuneJob {name} has not published its adapter yet."
    if not artifact.promoted and not deployment.spec.allow_unpromoted:
        return "Unpromoted", (
            f"The gate of FineTuneJob {name} said {artifact.verdict or 'no'}; "
            "set spec.allowUnpromoted to serve it all the same."
        )
    return None


def _without_job(deployment: AdapterDeployment, name: str) -> Resolution:
    """The digest was kept, so deleting the FineTuneJob afterwards does no harm."""
    last = deployment.status.resolved
    if last is not None and last.fine_tune_job == name:
        return _found(deployment, last.source, last.digest, None, name)
    text = f"FineTuneJob {name} does not exist in this namespace; create it or correct spec.adapter."
    return Resolution(deployment.status.resolved, False, "WaitingForFineTuneJob", text)


def _found(
    deployment: AdapterDeployment, source: str, digest: str, job: FineTuneJob | None, named: str | None = None
) -> Resolution:
    """`job` is the run that may have published it, `named` the run that the spec names."""
    version, known = version_name(deployment.spec.alias, digest), origin(deployment, job, digest)
    target = ResolvedAdapter(
        source=source,
        digest=digest,
        version=version,
        allow_unpromoted=deployment.spec.allow_unpromoted,
        fine_tune_job=named,
        base_fingerprint=known.base_fingerprint,
        evaluation=known.evaluation,
    )
    message = f"{source} at {digest[:19]} is served as {version}. {known.evaluation.message}"
    return Resolution(target, True, "Resolved", message)
