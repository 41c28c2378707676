"""Why replicas of a ModelServer are missing, in words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.times import parse_time
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.pod import mounted_claims, mounted_secrets

Trouble: TypeAlias = tuple[str, str]
MOUNT_PATIENCE = timedelta(seconds=15)


def trouble_of(observed: Observed, settings: Settings, now: datetime) -> Trouble:
    """(reason, message): what the administrator lacks or refuses, a missing claim, what the kubelet says."""
    unknown = settings.gpu_type_problem(observed.server.spec.resources.gpu_type)
    if unknown is not None:
        return "UnknownGpuType", unknown
    refused = settings.permission_problem(observed.server.spec.pod_template, observed.server.spec.scheduling)
    if refused is not None:
        return "NotAllowed", refused
    missing = [c for c in mounted_claims(observed.server) if c not in observed.claims]
    if missing:
        return (
            "ClaimNotFound",
            f"PersistentVolumeClaim {missing[0]} does not exist in this namespace; create it.",
        )
    for pod in observed.pods:
        found = None if pod.ready or pod.terminating else _of_pod(observed.server, pod, now)
        if found is not None:
            return found
    return "Starting", "The engine is loading the base model." if observed.pods else "Pods are being created."


def _of_pod(server: ModelServer, pod: PodState, now: datetime) -> Trouble | None:
    status = pod.pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        found = _restarts(pod, container) or _waits(pod, container)
        if found is not None:
            return found
    conditions = {c.get("type"): c for c in status.get("conditions", [])}
    return _unscheduled(pod, conditions) or _unmounted(server, pod, conditions, now)


def _unscheduled(pod: PodState, conditions: Mapping[Any, Manifest]) -> Trouble | None:
    placed = conditions.get("PodScheduled", {})
    if placed.get("status") != "False":
        return None
    return "Unschedulable", f"{pod.name}: {placed.get('message', 'no node fits')}"


def _unmounted(
    server: ModelServer, pod: PodState, conditions: Mapping[Any, Manifest], now: datetime
) -> Trouble | None:
    """The kubelet tells only in events which volume it waits for, and the operator reads no Secrets."""
    if pod.pod["status"].get("phase") != "Pending":
        return None
    since = conditions.get("PodScheduled", {}).get("lastTransitionTime")
    if conditions.get("PodReadyToStartContainers", {}).get("status") != "False" or since is None:
        return None
    if now - parse_time(since) < MOUNT_PATIENCE:
        return None
    secrets = [f"Secret {name}" for name in mounted_secrets(server)]
    claims = [f"PersistentVolumeClaim {name}" for name in mounted_claims(server)]
    return (
        "SecretOrVolumeMissing" if secrets else "VolumesNotMounted",
        f"{pod.name} waits for its volumes; check that these exist here and can be mounted: "
        f"{', '.join([*secrets, *claims])}.",
    )


def _restarts(pod: PodState, container: Manifest) -> Trouble | None:
    """A container that ended before: how its last run ended says more than that it is started again."""
    ended = container.get("lastState", {}).get("terminated")
    if not ended:
        return None
    where = f"{pod.name}, container {container['name']}"
    if ended.get("reason") == "OOMKilled":
        return "OutOfMemory", f"{where}: it was ended for memory; raise spec.resources.memory."
    said = str(ended.get("message") or ended.get("reason") or "no message").strip()
    text = f"{where}: the last run ended with exit code {ended.get('exitCode', '?')}: {said[-600:]}"
    return "CrashLoopBackOff", text


def _waits(pod: PodState, container: Manifest) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if reason in ("", "PodInitializing", "ContainerCreating"):
        return None
    return reason, f"{pod.name}, container {container['name']}: {waiting.get('message') or reason}"
