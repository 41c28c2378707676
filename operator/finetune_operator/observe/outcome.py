"""How an attempt ended: from its Job and pods to one reason (docs/contracts.md, "Result")."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from finetune_operator.api.finetunejobstatus import GPU_STAGES
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import (
    condition,
    container_specs,
    index_of,
    integer,
    is_true,
    items,
    mapping,
    moment,
    name_of,
    text,
    unfinished,
)

DISRUPTIONS = frozenset(
    {"Interrupted", "Preempted", "NodeLost", "ChildDeleted", "PeersMissing", "ServerRolled"}
)
"""The cluster took the pods away, or changed the server that answers them: they say nothing about the work,
which goes on where it was saved.
"""
FAULTS = frozenset({"Unknown", "ResultLost", "Hang", "EngineFailed", "NotStarted", "ImagePull"})
"""The work or its node failed in a way that another attempt may not repeat."""
RETRIED = DISRUPTIONS | FAULTS
UNREAD = frozenset({"Preempted", "NodeLost", "ChildDeleted", "ResultLost"})
"""Failures that hide what the stage may have stored: a CPU attempt reads that first."""
SUSPECT = frozenset({"NodeLost", "Hang", "EngineFailed", "NotStarted"})
"""Failures after which another attempt prefers another node."""

# Of several pods of a gang the first class of this list is the cause, the rest are its consequences.
_TELLING = (
    "UserError",
    "DatasetChanged",
    "OutOfMemory",
    "DiskFull",
    "Diverged",
    "TemplateDrift",
    "NotStored",
    "Preempted",
    "NodeLost",
    "Hang",
    "Unknown",
    "Interrupted",
    "PeersMissing",
    "ChildDeleted",
)
_LOG_LENGTH = 400
SIDECAR_PATIENCE = timedelta(seconds=30)
"""Without a sidecar that runs on, the Job of a pod whose container ended is complete long before."""
_NODE_GONE = frozenset({"DeletionByTaintManager", "DeletionByPodGC", "NodeLost"})


@dataclass(frozen=True)
class AttemptOutcome:
    """A recorded end of an attempt; `summary` has the shapes of docs/contracts.md.

    `node` is where it failed, for failures that may be the node's; `grader` the container of the grader that
    failed.
    """

    succeeded: bool
    reason: str
    message: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    node: str | None = None
    grader: str | None = None


def outcome_of(
    stage: str, job: Manifest | None, pods: Sequence[Manifest], now: datetime
) -> AttemptOutcome | None:
    """How the attempt ended, None while it goes on. `job` is None once the Job is gone.

    A pod that still runs after its Job is gone is waited for: two attempts must never share a workspace.
    Where every pod's own container has ended, the pods' other containers (a sidecar that a mesh injected) are
    not waited for longer than SIDECAR_PATIENCE.
    """
    if job is None:
        return None if unfinished(pods) else _of_pods(stage, pods, _child_deleted())
    if is_true(job, "Complete"):
        return _of_pods(stage, pods, _result_lost())
    if is_true(job, "Failed"):
        return _of_pods(stage, pods, _result_lost(text(condition(job, "Failed"), "message")))
    if _kept_by_sidecars(stage, job, pods, now):
        return _of_pods(stage, pods, _result_lost())
    return None


def _kept_by_sidecars(stage: str, job: Manifest, pods: Sequence[Manifest], now: datetime) -> bool:
    """Whether the stage's container ended in every pod of the Job a while ago, and all pods still run."""
    expected = integer(job, "spec", "completions") or 1
    running = [pod for pod in pods if text(pod, "status", "phase") == "Running"]
    return len(running) == len(pods) == expected and all(_stage_ended(stage, pod, now) for pod in running)


def _stage_ended(stage: str, pod: Manifest, now: datetime) -> bool:
    own = (c for c in items(pod, "status", "containerStatuses") if text(c, "name") == stage)
    ends = [moment(container, "state", "terminated", "finishedAt") for container in own]
    return any(end is not None and now - end >= SIDECAR_PATIENCE for end in ends)


def disruption(pods: Sequence[Manifest]) -> str | None:
    """What takes pods of a running attempt away, None while nothing does: an eviction, say."""
    taken = (pod for pod in sorted(pods, key=index_of) if is_true(pod, "DisruptionTarget"))
    found = next((_disrupted(pod) for pod in taken), None)
    return None if found is None else found.message


def explained(outcome: AttemptOutcome, job: Manifest | None, seen: str | None) -> AttemptOutcome:
    """The outcome of a Job that failed without a pod left, where `seen` says what took the pods away."""
    if outcome.reason != "ResultLost" or seen is None or not is_true(job, "Failed"):
        return outcome
    return AttemptOutcome(False, "Preempted", f"{seen.rstrip('.')}. It was gone before its result was read.")


def _child_deleted() -> AttemptOutcome:
    return AttemptOutcome(False, "ChildDeleted", "The Job was deleted before its result was read.")


def _result_lost(detail: str = "") -> AttemptOutcome:
    said = f" ({detail.rstrip('.')})" if detail else ""
    return AttemptOutcome(
        False, "ResultLost", f"The Job ended{said}, but no pod is left to read its result from."
    )


def _of_pods(stage: str, pods: Sequence[Manifest], otherwise: AttemptOutcome) -> AttemptOutcome:
    ended = sorted(pods, key=index_of)
    first = next((_reported(stage, pod) for pod in ended if index_of(pod) == 0), None)
    if first is not None and first.succeeded:
        return first  # rank 0 stores the result after every rank is done
    told = [
        outcome for pod in ended if (outcome := _of_pod(stage, pod)) is not None and not outcome.succeeded
    ]
    return min(told, key=_rank, default=otherwise)


def _rank(outcome: AttemptOutcome) -> int:
    return _TELLING.index(outcome.reason) if outcome.reason in _TELLING else _TELLING.index("Unknown")


def _of_pod(stage: str, pod: Manifest) -> AttemptOutcome | None:
    reported = _reported(stage, pod)
    if reported is not None:
        return _on_its_node(_with_disruption(reported, pod), pod)
    killed = _out_of_memory(stage, pod, "state")
    return killed or _disrupted(pod) or _out_of_memory(stage, pod, "lastState") or _crashed(pod)


def _on_its_node(outcome: AttemptOutcome, pod: Manifest) -> AttemptOutcome:
    suspect = outcome.reason in SUSPECT
    return replace(outcome, node=text(pod, "spec", "nodeName") or None) if suspect else outcome


def _reported(stage: str, pod: Manifest) -> AttemptOutcome | None:
    for container in items(pod, "status", "containerStatuses"):
        outcome = parse_result(stage, text(container, "state", "terminated", "message"))
        if outcome is not None:
            return outcome
    return None


def parse_result(stage: str, message: str) -> AttemptOutcome | None:
    """The result in a termination message, None when it is not one of this stage."""
    try:
        document = json.loads(message)
    except (ValueError, RecursionError):
        return None
    known = isinstance(document, Mapping) and document.get("schemaVersion") == 1
    if not known or text(document, "stage") != stage or not text(document, "reason"):
        return None
    return AttemptOutcome(
        succeeded=document.get("outcome") == "Succeeded",
        reason=text(document, "reason"),
        message=text(document, "message"),
        summary=mapping(document, "summary"),
    )


def _with_disruption(outcome: AttemptOutcome, pod: Manifest) -> AttemptOutcome:
    """An interrupted stage says that it was asked to stop; the pod says by whom."""
    why = text(condition(pod, "DisruptionTarget"), "message") or text(pod, "status", "message")
    if outcome.reason != "Interrupted" or not why:
        return outcome
    return AttemptOutcome(False, outcome.reason, f"{outcome.message} Cause: {why}", outcome.summary)


def _out_of_memory(stage: str, pod: Manifest, when: Literal["state", "lastState"]) -> AttemptOutcome | None:
    """Whether a container was OOM-killed, now or the last time that it ended."""
    containers = items(pod, "status", "containerStatuses")
    for container in (*containers, *items(pod, "status", "initContainerStatuses")):
        if text(container, when, "terminated", "reason") == "OOMKilled":
            return AttemptOutcome(False, "OutOfMemory", _memory_advice(stage, pod, text(container, "name")))
    return None


def _memory_advice(stage: str, pod: Manifest, container: str) -> str:
    spec = next((c for c in container_specs(pod) if c.get("name") == container), {})
    limit = text(spec, "resources", "limits", "memory") or "its node's memory"
    return (
        f"Container {container} of pod {name_of(pod)} was killed because it needed more memory than {limit}; "
        f"{_more_memory(stage, pod, spec)}, or lower spec.training.maxLength."
    )


def _more_memory(stage: str, pod: Manifest, container: Mapping[str, Any]) -> str:
    scores_on_server = stage in ("baseline", "evaluate") and not items(pod, "spec", "initContainers")
    if stage not in GPU_STAGES or scores_on_server:
        return "let the administrator raise cpuStages.memory of the chart"
    fewer = ", train in one process (spec.resources.processesPerNode: 1) if its log tells of several"
    return f"raise spec.resources.memory{fewer if _chose_processes(container) else ''}"


def _chose_processes(container: Mapping[str, Any]) -> bool:
    """Whether it chose how many processes train: in a single pod without GPUs, untold (stages/train.py)."""
    told = {text(entry, "name"): text(entry, "value") for entry in items(container, "env")}
    return told.get("FT_NODES") == "1" and "FT_PROCESSES" not in told


def _disrupted(pod: Manifest) -> AttemptOutcome | None:
    disruption = condition(pod, "DisruptionTarget")
    reason = text(disruption, "reason") or text(pod, "status", "reason")
    why = text(disruption, "message") or text(pod, "status", "message") or reason
    if reason in _NODE_GONE:
        node = text(pod, "spec", "nodeName") or "its node"
        return AttemptOutcome(False, "NodeLost", f"Pod {name_of(pod)} was lost with {node}: {why}", node=node)
    if reason:
        return AttemptOutcome(False, "Preempted", f"Pod {name_of(pod)} was preempted or evicted: {why}")
    if text(pod, "metadata", "deletionTimestamp"):
        # The Job controller deletes the rest of a gang too, so this never outranks what another pod tells.
        return AttemptOutcome(False, "ChildDeleted", f"Pod {name_of(pod)} was deleted before it reported.")
    return None


def _crashed(pod: Manifest) -> AttemptOutcome | None:
    """The end of the main container, or of one that runs before it and whose log is its message."""
    for container in items(pod, "status", "containerStatuses"):
        code = integer(container, "state", "terminated", "exitCode")
        if code:
            return _no_result(pod, container, code, "see its log")
    for container in items(pod, "status", "initContainerStatuses"):
        code = integer(container, "state", "terminated", "exitCode")
        if code:
            log = text(container, "state", "terminated", "message").strip()
            return _no_result(pod, container, code, log[-_LOG_LENGTH:] or "see its log")
    return None


def _no_result(pod: Manifest, container: Manifest, code: int, why: str) -> AttemptOutcome:
    who = f"Container {text(container, 'name')} of pod {name_of(pod)}"
    message = f"{who} exited with code {code} and no result: {why.rstrip('.')}."
    return AttemptOutcome(False, "Unknown", message)
