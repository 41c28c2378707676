"""One reconcile of a ModelServer: children as intended, the next server manifest, and what to tell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from finetune_operator.contracts.documents import ManifestBase
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Action, Apply, Manifest, Patch, Plan
from finetune_operator.serving import children
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.pod import base_name, cpu_slots
from finetune_operator.serving.routing import AliasReport, Table, next_table, read_table, report, write_table
from finetune_operator.serving.status import next_status
from finetune_operator.serving.wanted import wanted_versions

GENERATION = "finetune.dev/manifest-generation"
CONVERGING_SECONDS = 1.0  # while ready pods converge the operator asks /state this often
STARTING_SECONDS = 5.0  # without a ready pod there is little to see
STEADY_SECONDS = 15.0


def plan(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Decide children, manifest and status; owner references clean up after a deleted server."""
    if observed.server.metadata.deletion_timestamp is not None:
        return Plan()
    table, reports = _rollout(observed)
    image = _image(observed, settings)
    actions = [*_children(observed, settings, image, table), *_nudges(observed.pods, table)]
    status = next_status(observed, settings, image, table, reports, now)
    return Plan(tuple(actions), status, _look_again(observed, table, reports))


def _look_again(observed: Observed, table: Table, reports: Sequence[AliasReport]) -> float:
    if _settled(observed, table, reports):
        return STEADY_SECONDS
    return CONVERGING_SECONDS if any(p.ready for p in observed.pods) else STARTING_SECONDS


def _rollout(observed: Observed) -> tuple[Table, list[AliasReport]]:
    current = read_table(_document(observed.manifest))
    wanted = wanted_versions(observed.server, observed.deployments)
    table, without_slot = next_table(current, wanted, observed.pods, cpu_slots(observed.server))
    return table, [report(want, table, observed.pods, without_slot) for want in wanted]


def _document(configmap: Manifest | None) -> Mapping[str, Any] | None:
    if configmap is None:
        return None
    document: Mapping[str, Any] = json.loads((configmap.get("data") or {}).get("manifest.json", "{}"))
    return document


def _children(observed: Observed, settings: Settings, image: str, table: Table) -> list[Action]:
    server = observed.server
    base = ManifestBase(name=base_name(server), fingerprint=server.spec.base_model.fingerprint)
    intended = [
        (observed.manifest, children.manifest_configmap(server, write_table(table, base))),
        (observed.service, children.service(server)),
        (observed.policy, children.network_policy(server)),
    ]
    permitted = settings.permission_problem(server.spec.pod_template, server.spec.scheduling) is None
    if permitted and settings.gpu_type(server.spec.resources.gpu_type) is not None:
        intended.append((observed.deployment, children.deployment(server, settings, image)))
    return [Apply(want) for have, want in intended if children.intent_of(have) != children.intent_of(want)]


def _image(observed: Observed, settings: Settings) -> str:
    """A server keeps the image it was created with, so upgrading the operator rolls no server."""
    if observed.deployment is None:
        return settings.images.serving
    containers = observed.deployment["spec"]["template"]["spec"]["containers"]
    return str(containers[0]["image"])


def _nudges(pods: Sequence[PodState], table: Table) -> list[Action]:
    """An annotation on the pod makes the kubelet refresh the mounted manifest at once, not in a minute."""
    wanted = str(table.generation)
    return [
        Patch("v1", "Pod", pod.name, {"metadata": {"annotations": {GENERATION: wanted}}})
        for pod in pods
        if not pod.terminating and (pod.pod["metadata"].get("annotations") or {}).get(GENERATION) != wanted
    ]


def _settled(observed: Observed, table: Table, reports: Sequence[AliasReport]) -> bool:
    needed = set(table.routes.values()) | {r.wanted.version for r in reports if r.state == "Failed"}
    ready = [p for p in observed.pods if p.ready and not p.terminating]
    return (
        len(ready) == observed.server.spec.replicas == len(observed.pods)
        and set(table.versions) <= needed
        and all(r.state in ("Serving", "Failed", "Pending") for r in reports)
    )
