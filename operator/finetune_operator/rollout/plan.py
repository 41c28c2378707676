"""One reconcile of an AdapterDeployment: resolve the adapter, then tell what the server says of it.

It writes nothing but its own status: `resolved` is the request, and the ModelServer, which alone decides
about its pods, reads it there (docs/architecture.md, "Who decides what").
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from finetune_operator.api.adapterdeployment import AdapterDeployment, AdapterDeploymentStatus, ServingAdapter
from finetune_operator.api.conditions import Conditions, Fact, find, ready_events, with_facts
from finetune_operator.api.rollout import RolloutProgress
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Emit, Plan
from finetune_operator.core.times import format_time
from finetune_operator.rollout.base import FITS_BASE, Fit, fit
from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.resolve import Resolution, resolve
from finetune_operator.rollout.standing import Standing, alias_conflict, progress, standing


def plan(observed: Observed, _settings: Settings, now: datetime) -> Plan:
    """Pure and total; a deployment that is being deleted disappears from its server by being gone."""
    deployment = observed.deployment
    if deployment.metadata.deletion_timestamp is not None:
        return Plan()
    resolution = resolve(deployment, observed.job)
    where, base = standing(observed, resolution), fit(observed, resolution)
    status = _status(observed, resolution, where, base, now)
    events = [
        *_base_events(deployment.status.conditions, status.conditions),
        *_step_events(deployment.status.rollout, status.rollout),
        *ready_events(deployment.status.conditions, status.conditions),
    ]
    return Plan(tuple(events), status.to_status())


def _base_events(before: Conditions, after: Conditions) -> list[Emit]:
    """One event when it turns out that the server has another base."""
    known, now = find(before, FITS_BASE), find(after, FITS_BASE)
    if now is None or now.status != "False" or (known is not None and known.status == "False"):
        return []
    return [Emit("Warning", now.reason, now.message)]


def _step_events(before: RolloutProgress | None, after: RolloutProgress | None) -> list[Emit]:
    """One event per step; that a version was rolled back is told as the reason of Ready."""
    same = before is not None and after is not None and before.to_version == after.to_version
    known = before.weight if before is not None and same else 0
    if after is None or after.weight in (0, known):
        return []
    if after.weight == 100:
        return [Emit("Normal", "Promoted", f"{after.to_version} gets every request.")]
    shares = f"{after.weight} of 100 requests go to {after.to_version}, the others to {after.from_version}."
    return [Emit("Normal", "Shifted", f"Step {after.step}: {shares}")]


def _status(
    observed: Observed, resolution: Resolution, where: Standing, base: Fit, now: datetime
) -> AdapterDeploymentStatus:
    deployment, server = observed.deployment, observed.server
    generation = deployment.metadata.generation
    facts = [*_facts(resolution, where), base.fact]
    serving = _serving(deployment, where.serving, resolution, now)
    return AdapterDeploymentStatus(
        observed_generation=generation,
        conditions=with_facts(deployment.status.conditions, facts, generation, now),
        resolved=resolution.target,
        serving=serving,
        last_served=_last_served(deployment) if serving is None else None,
        rollout=progress(observed, resolution),
        alias_conflict=alias_conflict(observed),
        retrain=base.retrain,
        endpoint=server.status.endpoint if server is not None else None,
    )


def _facts(resolution: Resolution, where: Standing) -> Iterator[Fact]:
    yield Fact("Resolved", resolution.current, resolution.reason, resolution.message)
    yield Fact("Loaded", where.ready, where.reason, where.message)
    yield Fact("Ready", where.ready, where.reason, where.message)
    yield Fact("Reconciling", where.moving, where.reason, where.message)
    yield Fact("Stalled", where.stalled, where.reason, where.message)


def _last_served(deployment: AdapterDeployment) -> ServingAdapter | None:
    return deployment.status.serving or deployment.status.last_served


def _serving(
    deployment: AdapterDeployment, version: str | None, resolution: Resolution, now: datetime
) -> ServingAdapter | None:
    """What answers now, complete enough to rebuild a lost server manifest from it."""
    before, target = deployment.status.serving, resolution.target
    if version is None:
        return None
    known = ServingAdapter(version=version, since=format_time(now))
    last = _last_served(deployment)
    if last is not None and last.version == version:
        known = last if before is not None else last.model_copy(update={"since": known.since})
    if known.source is not None or target is None or target.version != version:
        return known
    taken = {"digest": target.digest, "source": target.source, "allow_unpromoted": target.allow_unpromoted}
    return known.model_copy(update=taken)
