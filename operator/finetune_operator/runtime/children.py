"""Small readings of raw manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from finetune_operator.api.plan import Manifest

JOB_LABEL = "batch.kubernetes.io/job-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


def name_of(manifest: Manifest) -> str:
    """The object's name."""
    return str(manifest["metadata"]["name"])


def label(manifest: Manifest, key: str) -> str | None:
    """The value of a label."""
    value = (manifest["metadata"].get("labels") or {}).get(key)
    return None if value is None else str(value)


def owned(manifest: Manifest, uid: str) -> bool:
    """Whether the object's controller has this uid."""
    return any(ref.get("uid") == uid for ref in manifest["metadata"].get("ownerReferences") or ())


def condition(manifest: Manifest, kind: str) -> bool:
    """Whether a condition of this type is True."""
    found = (manifest.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == kind and c.get("status") == "True" for c in found)


def finished(job: Manifest) -> bool:
    """Whether a Job will run nothing more."""
    return condition(job, "Complete") or condition(job, "Failed")


def suspended(job: Manifest) -> bool:
    """Whether a Job makes no pods until it is resumed."""
    return (job.get("spec") or {}).get("suspend") is True


def terminating(manifest: Manifest) -> bool:
    """Whether the object is being deleted."""
    return bool(manifest["metadata"].get("deletionTimestamp"))


def address(pod: Manifest) -> str | None:
    """The address of a pod whose containers run, None while they do not."""
    status = pod.get("status") or {}
    return status.get("podIP") if status.get("phase") == "Running" else None


def by_job(pods: Iterable[Manifest]) -> Mapping[str, tuple[Manifest, ...]]:
    """Pods by the name of the Job that made them."""
    found: dict[str, tuple[Manifest, ...]] = {}
    for pod in pods:
        job = label(pod, JOB_LABEL)
        if job is not None:
            found[job] = (*found.get(job, ()), pod)
    return found
