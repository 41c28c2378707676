"""How containers of graders fail (render/graders.py): the next attempt does without that grader.

Its rows are then ungraded, with what is said here as the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from finetune_operator.api.evaluation.graders import CONTAINER_SECONDS
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import (
    container_specs,
    integer,
    items,
    mapping,
    moment,
    text,
    unfinished,
)
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.observe.trouble import CONFIG_REASONS, PULL_REASONS, Trouble
from finetune_operator.render.graders import NETWORK_CHECK, NETWORK_FOUND, container_graders

FAILED = "GraderFailed"
_LOG_LENGTH = 400
_PULLS = "spec.podTemplate.imagePullSecrets may pull it"
_OWN_CODES = range(1, 126)
"""Exit codes that a program chooses; above are those of shells, container runtimes and signals."""
_OF_CONTAINERS = frozenset({"ImagePull", "ContainerConfig", "PodNotStarted"})


def blamed(
    job: FineTuneJob, pods: Sequence[Manifest], outcome: AttemptOutcome, *, failed_before: bool
) -> AttemptOutcome:
    """The outcome; of a pod that ended because of a grader's container, what that container did.

    Where something took the pod away, the cluster ended the container. An end that may be the node's fault is
    held against the grader only where an earlier attempt has failed too (`failed_before`).
    """
    if outcome.succeeded or outcome.reason not in ("Unknown", "OutOfMemory"):
        return outcome
    graders = container_graders(job)
    for pod in pods:
        for container in items(pod, "status", "initContainerStatuses"):
            ended, name = mapping(container, "state", "terminated"), text(container, "name")
            if name in graders and integer(ended, "exitCode") and (failed_before or _its_own(ended)):
                message = f"{_described(job, name)} {_end(pod, name, ended)}"
                return AttemptOutcome(False, FAILED, message, grader=name)
            if name == NETWORK_CHECK and integer(ended, "exitCode") == NETWORK_FOUND:
                return AttemptOutcome(False, "Unknown", _no_isolation(job, ended))
    return outcome


def grader_trouble(
    job: FineTuneJob, pods: Sequence[Manifest], found: Trouble | None, stuck_seconds: float, now: datetime
) -> Trouble | None:
    """The trouble that was found; what a grader's container has to answer for is named as such.

    While one runs its pod counts as Pending, which is no trouble.
    """
    if found is not None and found.reason not in _OF_CONTAINERS:
        return found
    graders = container_graders(job)
    for pod in unfinished(pods):
        for container in items(pod, "status", "initContainerStatuses"):
            if text(container, "name") in graders:
                told = next(_troubles(job, pod, container, found, stuck_seconds, now), None)
                if told is not None or mapping(container, "state", "running"):
                    return told
    return found


def _troubles(
    job: FineTuneJob,
    pod: Manifest,
    container: Manifest,
    found: Trouble | None,
    stuck_seconds: float,
    now: datetime,
) -> Iterator[Trouble]:
    name, node = text(container, "name"), text(pod, "spec", "nodeName")
    waiting = mapping(container, "state", "waiting")
    who, why = _described(job, name), text(waiting, "message")[-_LOG_LENGTH:] or text(waiting, "reason")
    if text(waiting, "reason") in PULL_REASONS:
        message = f"{who}: its image cannot be pulled; check its name and that {_PULLS}: {why}"
        limit = stuck_seconds if found is None else found.deadline_seconds
        yield Trouble("ImagePull", message, FAILED, None, limit, stalled=True, node=node, grader=name)
    if text(waiting, "reason") in CONFIG_REASONS:
        message = f"{who}: its container cannot be created: {why}"
        yield Trouble(
            "ContainerConfig", message, FAILED, None, stuck_seconds, stalled=True, node=node, grader=name
        )
    since, most = moment(container, "state", "running", "startedAt"), _seconds(job, name)
    if since is not None and now - since >= timedelta(seconds=most):
        message = f"{who} did not end within {most} s (its timeoutSeconds)."
        yield Trouble("GraderSlow", message, FAILED, since, 0, node=node, grader=name)


def _seconds(job: FineTuneJob, name: str) -> int:
    return container_graders(job)[name].timeout_seconds or CONTAINER_SECONDS


def _described(job: FineTuneJob, name: str) -> str:
    kind, _, own = name.partition("-")
    who = f"Grader {own}" if kind == "grader" else f"The grader of suite {own}"
    return f"{who} ({_short(container_graders(job)[name].image or '')})"


def _short(image: str) -> str:
    """An image with the beginning of its digest."""
    where, _, digest = image.partition("@sha256:")
    return f"{where}@sha256:{digest[:12]}"


def _its_own(ended: Manifest) -> bool:
    """Whether the grader itself is why its container ended so, and not the node or its runtime."""
    reason, code = text(ended, "reason"), integer(ended, "exitCode")
    return reason == "OOMKilled" or (reason == "Error" and code in _OWN_CODES)


def _end(pod: Manifest, name: str, ended: Manifest) -> str:
    if text(ended, "reason") == "OOMKilled":
        spec = next((c for c in container_specs(pod) if c.get("name") == name), {})
        limit = text(spec, "resources", "limits", "memory") or "its limit"
        return f"was killed because it needed more memory than {limit}."
    log = text(ended, "message").strip()[-_LOG_LENGTH:] or "it wrote no log"
    return f"exited with code {integer(ended, 'exitCode')}: {log}"


def _no_isolation(job: FineTuneJob, ended: Manifest) -> str:
    found = text(ended, "message").strip().rstrip(".") or "its pod reaches the network"
    return (
        f"No image of a user graded answers: {found}. Either the cluster's network plugin enforces no "
        f"NetworkPolicies, or another NetworkPolicy of namespace {job.metadata.namespace} lets this pod out. "
        "Ask the administrator for a plugin that enforces them, have that policy leave out pods whose label "
        "finetune.dev/stage is grade-base or grade-tuned, or take graders of other types."
    )
