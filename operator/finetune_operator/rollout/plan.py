"""One reconcile of an AdapterDeployment: resolve the adapter, then tell what the server says of it.

It writes nothing but its own status: `resolved` is the request, and the ModelServer, which alone decides
about its pods, reads it there (docs/architecture.md, "Who decides what").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.conditions import Condition, clip, set_condition
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Emit, Manifest, Plan
from finetune_operator.core.times import format_time
from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.resolve import Resolution, resolve
from finetune_operator.rollout.standing import Standing, standing


def plan(observed: Observed, _settings: Settings, now: datetime) -> Plan:
    """Pure and total; a deployment that is being deleted disappears from its server by being gone."""
    deployment = observed.deployment
    if deployment.metadata.deletion_timestamp is not None:
        return Plan()
    resolution = resolve(deployment, observed.job)
    where = standing(deployment, resolution, observed.server)
    status = _status(observed, resolution, where, now)
    return Plan(tuple(_events(deployment, where)), status)


def _status(observed: Observed, resolution: Resolution, where: Standing, now: datetime) -> Manifest:
    deployment = observed.deployment
    status: dict[str, Any] = {
        "observedGeneration": deployment.metadata.generation,
        "conditions": _conditions(deployment, resolution, where, now),
    }
    if resolution.target is not None:
        status["resolved"] = resolution.target
    if where.serving is not None:
        status["serving"] = _serving(deployment, where.serving, resolution, now)
    if observed.server is not None and observed.server.status.endpoint:
        status["endpoint"] = observed.server.status.endpoint
    return status


def _serving(deployment: AdapterDeployment, version: str, resolution: Resolution, now: datetime) -> Manifest:
    before = deployment.status.serving
    if before is not None and before.version == version:
        return before.to_dict()
    target = resolution.target or {}
    digest = {"digest": target["digest"]} if target.get("version") == version else {}
    return {"version": version, **digest, "since": format_time(now)}


def _conditions(
    deployment: AdapterDeployment, resolution: Resolution, where: Standing, now: datetime
) -> list[Condition | Mapping[str, Any]]:
    generation = deployment.metadata.generation
    conditions: Sequence[Condition | Mapping[str, Any]] = deployment.status.conditions
    facts = [
        ("Resolved", resolution.current, resolution.reason, resolution.message),
        ("Loaded", where.loaded, where.reason, where.message),
        ("Ready", where.ready, where.reason, where.message),
        ("Reconciling", where.moving, where.reason, where.message),
        ("Stalled", where.stalled, where.reason, where.message),
    ]
    for kind, value, reason, message in facts:
        conditions = set_condition(conditions, kind, value, reason, message, generation, now)
    return list(conditions)


def _events(deployment: AdapterDeployment, where: Standing) -> list[Emit]:
    """One event per change of the Ready reason: a roll that starts, ends or is refused."""
    before = deployment.status.condition("Ready")
    if before is not None and (before.reason, before.message) == (where.reason, clip(where.message)):
        return []
    return [Emit("Warning" if where.stalled else "Normal", where.reason, where.message)]
