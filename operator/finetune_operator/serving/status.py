"""What a ModelServer reports: readiness in words, its address, and one entry per alias."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from finetune_operator.api.conditions import clip, set_condition
from finetune_operator.api.names import KIND_LABEL, OWNER_LABEL, server_name
from finetune_operator.api.plan import Manifest
from finetune_operator.serving.children import GATEWAY_PORT
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.pod import mounted_claims
from finetune_operator.serving.routing import AliasReport, Table


def endpoint(name: str, namespace: str) -> str:
    """The OpenAI base URL of a server inside the cluster."""
    return f"http://{name}.{namespace}.svc:{GATEWAY_PORT}/v1"


def next_status(
    observed: Observed, image: str, table: Table, reports: Sequence[AliasReport], now: datetime
) -> Manifest:
    """The whole status; conditions keep their transition times."""
    server = observed.server
    ready = sum(1 for p in observed.pods if p.ready and not p.terminating)
    return {
        "observedGeneration": server.metadata.generation,
        "conditions": _conditions(observed, ready, now),
        "replicas": len([p for p in observed.pods if not p.terminating]),
        "readyReplicas": ready,
        "selector": f"{KIND_LABEL}={server.kind_name},{OWNER_LABEL}={server.metadata.name}",
        "endpoint": endpoint(server_name(server), server.metadata.namespace),
        "image": image,
        "manifestGeneration": table.generation,
        "adaptersServing": f"{sum(r.state == 'Serving' for r in reports)}/{len(reports)}",
        "adapters": [_adapter(r) for r in reports],
    }


def _adapter(report: AliasReport) -> dict[str, Any]:
    want = report.wanted
    entry = {
        "alias": want.alias,
        "deployment": want.deployment,
        "version": want.version,
        "digest": want.digest or None,
        "state": report.state,
        "servingVersion": report.serving,
        "reason": report.reason,
        "message": clip(report.message),
        "replicasReady": report.replicas_ready,
    }
    return {key: value for key, value in entry.items() if value is not None}


def _conditions(observed: Observed, ready: int, now: datetime) -> list[dict[str, Any]]:
    server = observed.server
    replicas = server.spec.replicas
    good = ready >= replicas
    trouble = _trouble(observed)
    reason, message = ("Serving", f"{ready} of {replicas} replicas answer.") if good else trouble
    generation = server.metadata.generation
    conditions = set_condition(server.status.conditions, "Ready", good, reason, message, generation, now)
    starting = not good and reason == "Starting"
    conditions = set_condition(conditions, "Reconciling", starting, reason, message, generation, now)
    return set_condition(conditions, "Stalled", not good and not starting, reason, message, generation, now)


def _trouble(observed: Observed) -> tuple[str, str]:
    """Why replicas are missing: an absent claim, what the kubelet says, what the agent says, or just time."""
    missing = [c for c in mounted_claims(observed.server) if c not in observed.claims]
    if missing:
        return (
            "ClaimNotFound",
            f"PersistentVolumeClaim {missing[0]} does not exist in this namespace; create it.",
        )
    for pod in observed.pods:
        waiting = None if pod.ready or pod.terminating else _pod_trouble(pod)
        if waiting is not None:
            return waiting
    return "Starting", "The engine is loading the base model." if observed.pods else "Pods are being created."


def _pod_trouble(pod: PodState) -> tuple[str, str] | None:
    status = pod.pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        trouble = _restarts(pod, container) or _waits(pod, container)
        if trouble is not None:
            return trouble
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return "Unschedulable", f"{pod.name}: {condition.get('message', 'no node fits')}"
    return None


def _restarts(pod: PodState, container: Manifest) -> tuple[str, str] | None:
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


def _waits(pod: PodState, container: Manifest) -> tuple[str, str] | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason = waiting.get("reason")
    if reason in (None, "PodInitializing", "ContainerCreating"):
        return None
    return reason, f"{pod.name}, container {container['name']}: {waiting.get('message') or reason}"
