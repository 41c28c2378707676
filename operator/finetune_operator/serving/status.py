"""What a ModelServer reports: readiness in words, its address, and one entry per alias."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from finetune_operator.api.conditions import clip, set_condition
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.render.names import KIND_LABEL, OWNER_LABEL, server_name
from finetune_operator.serving.children import GATEWAY_PORT
from finetune_operator.serving.observed import Observed
from finetune_operator.serving.routing import AliasReport, Table
from finetune_operator.serving.trouble import trouble_of


def endpoint(name: str, namespace: str) -> str:
    """The OpenAI base URL of a server inside the cluster."""
    return f"http://{name}.{namespace}.svc:{GATEWAY_PORT}/v1"


def next_status(
    observed: Observed,
    settings: Settings,
    image: str,
    table: Table,
    reports: Sequence[AliasReport],
    now: datetime,
) -> Manifest:
    """The whole status; conditions keep their transition times."""
    server = observed.server
    ready = sum(1 for p in observed.pods if p.ready and not p.terminating)
    return {
        "observedGeneration": server.metadata.generation,
        "conditions": _conditions(observed, settings, ready, now),
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


def _conditions(observed: Observed, settings: Settings, ready: int, now: datetime) -> list[dict[str, Any]]:
    server = observed.server
    replicas = server.spec.replicas
    good = ready >= replicas
    reason, message = (
        ("Serving", f"{ready} of {replicas} {'replica answers' if replicas == 1 else 'replicas answer'}.")
        if good
        else trouble_of(observed, settings, now)
    )
    generation = server.metadata.generation
    conditions = set_condition(server.status.conditions, "Ready", good, reason, message, generation, now)
    starting = not good and reason == "Starting"
    conditions = set_condition(conditions, "Reconciling", starting, reason, message, generation, now)
    return set_condition(conditions, "Stalled", not good and not starting, reason, message, generation, now)
