"""Jobs without pods: who suspended a Job, why it waits, and what stops it or lets it run.

A Job for which Kueue made a Workload is Kueue's: it suspends the Job, resumes it at its admission, and undoes
what others write to `spec.suspend`. Such a Job is stopped by deactivating its Workload.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.core.actions import Manifest, Patch
from finetune_operator.core.manifests import (
    condition,
    is_true,
    items,
    label,
    mapping,
    moment,
    name_of,
    suspended,
    text,
)
from finetune_operator.render.job import queue_of
from finetune_operator.render.names import MANAGED_BY, QUEUE_LABEL, SUSPENDED_BY

KUEUE_PATIENCE = timedelta(seconds=10)
"""Kueue makes the Workload of a Job within a second, and says in another whether there is quota."""


@dataclass(frozen=True)
class Waiting:
    """Why a suspended Job does not run: a reason for programs and a sentence for people."""

    reason: str
    message: str


def stop(child: Manifest, workload: Manifest | None) -> Patch | None:
    """What takes the Job's pods away and keeps the Job; None when there is nothing to write."""
    if workload is not None:
        if not _inactive(workload):
            return _patch(workload, MANAGED_BY, {"active": False})
        # Kueue suspends it now; where Kueue is down, nobody undoes this either.
        return None if suspended(child) else _patch(child, None, {"suspend": True})
    return None if suspended(child) else _patch(child, MANAGED_BY, {"suspend": True})


def let_run(child: Manifest, workload: Manifest | None, queue: str | None, *, kueue: bool) -> Patch | None:
    """What lets the Job have pods; None when it may have them, or when others keep it from them.

    A Job with a queue is left to Kueue where the cluster has it, also before there is a Workload. Where Kueue
    manages every Job (`manageJobsWithoutQueueName`), one that names no queue gets the run's.
    """
    if workload is None:
        left = not suspended(child) or not _ours(child) or (kueue and label(child, QUEUE_LABEL))
        return None if left else _patch(child, None, {"suspend": False})
    if _inactive(workload):
        return _patch(workload, None, {"active": True}) if _ours(workload) else None
    if queue is None or text(workload, "spec", "queueName") or label(child, QUEUE_LABEL):
        return None
    return Patch("batch/v1", "Job", name_of(child), {"metadata": {"labels": {QUEUE_LABEL: queue}}})


def waiting(
    child: Manifest, workload: Manifest | None, *, kueue: bool, now: datetime, problem: str = ""
) -> Waiting | None:
    """Why the Job is suspended although the run may go on; None when it is not, or will be resumed.

    `kueue` says whether the API server serves Kueue's Workloads at all, `problem` why it does not list them.
    """
    if not suspended(child) or (_new(child, now) and not condition(workload, "QuotaReserved")):
        return None
    if workload is not None:
        return _of_workload(child, workload)
    return None if _ours(child) else _without_workload(child, kueue, problem)


def _without_workload(child: Manifest, kueue: bool, problem: str) -> Waiting:
    queue, name = label(child, QUEUE_LABEL), name_of(child)
    if not queue:
        remedy = "set spec.suspend of the Job to false to let it go on"
        return Waiting("JobSuspended", f"Job {name} is suspended by somebody else; {remedy}.")
    if not kueue:
        return Waiting("KueueNotInstalled", f"Job {name} {_not_installed(queue)}")
    if problem:
        return Waiting("WorkloadsNotListed", _not_listed(name, queue, problem))
    return Waiting(
        "Pending",
        f"Kueue has made no Workload for Job {name} yet; if this lasts, `kubectl describe job {name}` and "
        "the log of Kueue's controller manager tell why.",
    )


def queue_problem(job: FineTuneJob, stage: str, *, kueue: bool) -> str | None:
    """Why no Job of a stage should be created: it names a queue that nobody serves."""
    queue = queue_of(job, stage)
    return None if queue is None or kueue else f"The {stage} stage {_not_installed(queue)}"


def _not_installed(queue: str) -> str:
    return (
        f"waits for LocalQueue {queue}, but Kueue is not installed in this cluster: install it, or delete "
        "this FineTuneJob and create it without spec.scheduling.queueName."
    )


def _not_listed(name: str, queue: str, problem: str) -> str:
    return (
        f"Job {name} waits in LocalQueue {queue}; for what is not known, since Kueue's Workloads cannot be "
        f"listed: {problem}. If `kubectl get workloads` works, the operator's role lacks them."
    )


def _of_workload(child: Manifest, workload: Manifest) -> Waiting | None:
    evicted, queue = condition(workload, "Evicted"), text(workload, "spec", "queueName")
    if _inactive(workload):
        return None if _ours(workload) else _deactivated(workload, text(evicted, "message"))
    if not queue:
        return _without_queue(name_of(child))
    pending = _pending(workload, queue)
    # Deactivated stays True after the Workload was activated again, until quota is reserved.
    if text(evicted, "status") != "True" or text(evicted, "reason").startswith("Deactivated"):
        return pending
    said = text(evicted, "message")
    if pending is None or said in pending.message:
        return Waiting(text(evicted, "reason"), said)
    return Waiting(text(evicted, "reason"), f"{said}. {pending.message}")


def _pending(workload: Manifest, queue: str) -> Waiting | None:
    if is_true(workload, "Admitted"):
        return None
    reserved = condition(workload, "QuotaReserved")
    if text(reserved, "status") == "True":
        checks = items(workload, "status", "admissionChecks")
        open_checks = ", ".join(_check(check) for check in checks if check.get("state") != "Ready")
        return Waiting("UnsatisfiedChecks", f"{text(reserved, 'message')}; {open_checks}.")
    why = text(reserved, "message")
    where = f"Waiting in LocalQueue {queue}"
    return Waiting(text(reserved, "reason") or "Pending", f"{where}: {why}." if why else f"{where}.")


def _check(check: Manifest) -> str:
    said = text(check, "message")
    return f"admission check {text(check, 'name')} is {text(check, 'state')}" + (f" ({said})" if said else "")


def _deactivated(workload: Manifest, why: str) -> Waiting:
    name = name_of(workload)
    remedy = f"set spec.active of Workload {name} to true to queue the Job again."
    return Waiting("Deactivated", f"{why or 'The workload is deactivated'}; {remedy}")


def _without_queue(name: str) -> Waiting:
    return Waiting(
        "Inadmissible",
        f"Kueue manages every Job of this namespace, and Job {name} names no queue: create the run with "
        f"spec.scheduling.queueName, or run `kubectl label job {name} {QUEUE_LABEL}=` with the name of a "
        "LocalQueue.",
    )


def _new(child: Manifest, now: datetime) -> bool:
    created = moment(child, "metadata", "creationTimestamp")
    return created is not None and now - created < KUEUE_PATIENCE


def _inactive(workload: Manifest) -> bool:
    return mapping(workload, "spec").get("active") is False


def _ours(manifest: Manifest) -> bool:
    return text(manifest, "metadata", "annotations", SUSPENDED_BY) == MANAGED_BY


def _patch(manifest: Manifest, holder: str | None, spec: dict[str, Any]) -> Patch:
    """A change of the spec together with the note of who made it; `holder` None removes the note."""
    body = {"metadata": {"annotations": {SUSPENDED_BY: holder}}, "spec": spec}
    return Patch(text(manifest, "apiVersion"), text(manifest, "kind"), name_of(manifest), body)
