"""One reconcile of a ModelServer: children as intended, the next server manifest, and what to tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from finetune_operator.api.conditions import ready_events
from finetune_operator.api.modelserverstatus import ModelServerStatus
from finetune_operator.contracts.server_manifest import ManifestBase
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Action, Emit, Patch, Plan
from finetune_operator.serving import children
from finetune_operator.serving.observed import GENERATION, Observed, PodState, slots_of, told_generation
from finetune_operator.serving.ownership import Taken, put_right, taken
from finetune_operator.serving.pod import cpu_slots
from finetune_operator.serving.report import report, trial_report
from finetune_operator.serving.routing import Slots, next_step
from finetune_operator.serving.status import Decided, next_status
from finetune_operator.serving.steps import next_hold_end, with_rollouts
from finetune_operator.serving.table import Table, current_table, write_table
from finetune_operator.serving.template import Template, chosen, keeping, proven
from finetune_operator.serving.wanted import trials, wanted_versions

UNASKED_SECONDS = 1.0
SOONEST_SECONDS = 0.1
LOOK_SECONDS = 15.0  # what pods say wakes the operator; this is for what only time tells


def plan(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Decide children, manifest and status; owner references clean up after a deleted server.

    Until every ready pod was asked once nothing is decided: an operator that has just started knows nothing.
    """
    if observed.server.metadata.deletion_timestamp is not None:
        return Plan()
    if any(pod.unasked for pod in observed.pods):
        return Plan(requeue_after=UNASKED_SECONDS)
    decided = _decided(observed, settings, now)
    status = next_status(observed, settings, decided, now)
    actions = (
        *_children(observed, settings, decided),
        *_nudges(observed.live, decided.step.table),
        *_events(observed, decided, status),
    )
    return Plan(actions, status.to_status(), _next_look(decided, now))


def _next_look(decided: Decided, now: datetime) -> float:
    ends = next_hold_end([report.wanted for report in decided.reports])
    left = (ends - now).total_seconds() if ends is not None else LOOK_SECONDS
    return min(max(left, SOONEST_SECONDS), LOOK_SECONDS)


def _decided(observed: Observed, settings: Settings, now: datetime) -> Decided:
    template = chosen(observed, settings)
    slots = _slots(observed, template)
    asked = wanted_versions(observed)
    current = current_table(observed, asked)
    wanted = with_rollouts(observed, current, asked, now)
    tried = trials(observed, current.versions)
    step = next_step(current, wanted, observed.live, slots, tried[0] if tried else None)
    answering, replicas = observed.answering(now), observed.server.spec.replicas
    reports = [report(want, step, observed.live, answering, replicas) for want in wanted]
    deployment = None
    if template is not None:
        deployment = children.deployment(observed.server, template.body, template.record.spec_digest)
        template = proven(template, observed, deployment)
    return Decided(
        template,
        deployment,
        step,
        slots,
        reports,
        trial_report(tried, step, observed.live),
        taken(observed),
        current.rebuilt,
    )


def _slots(observed: Observed, template: Template | None) -> Slots:
    """Every pod loads all that the manifest lists, so the engine with the fewest slots limits it."""
    aliases = cpu_slots(observed.server)
    told = [template.engine_slots if template is not None else None]
    told += [slots_of(pod.pod) for pod in observed.live]
    return Slots(aliases, min((slots for slots in told if slots), default=aliases + 1))


def _children(observed: Observed, settings: Settings, decided: Decided) -> list[Action]:
    """Children of ours, put right. Pods come only once every name is ours: nobody would reach them."""
    server = observed.server
    base = ManifestBase(name=server.spec.base_name, fingerprint=server.spec.base_model.fingerprint)
    candidate = decided.trials[0][0] if decided.trials else None
    manifest = children.manifest_configmap(server, write_table(decided.step.table, base, candidate))
    intended = [
        (manifest, observed.manifest),
        (children.service(server), observed.service),
        (children.network_policy(server, settings), observed.policy),
        (children.disruption_budget(server), observed.budget),
    ]
    if decided.deployment is not None and (observed.deployment is not None or not decided.taken):
        intended.append((decided.deployment, observed.deployment))
    kept = keeping(observed, decided.template) if decided.template is not None else []
    return kept + [
        action
        for intent, live in intended
        if not _is_taken(intent["kind"], decided.taken)
        for action in put_right(intent, live)
    ]


def _is_taken(kind: str, names: Sequence[Taken]) -> bool:
    return any(entry.kind == kind for entry in names)


def _nudges(pods: Sequence[PodState], table: Table) -> list[Action]:
    """An annotation on the pod makes the kubelet refresh the mounted manifest at once, not in a minute."""
    told = {"metadata": {"annotations": {GENERATION: str(table.generation)}}}
    behind = (pod for pod in pods if told_generation(pod.pod) != table.generation)
    return [Patch("v1", "Pod", pod.name, told, optional=True) for pod in behind]


def _events(observed: Observed, decided: Decided, status: ModelServerStatus) -> list[Action]:
    rebuilt = "The server manifest was lost or edited; it is made again from what pods and statuses hold."
    return [
        *([Emit("Warning", "ManifestRebuilt", rebuilt)] if decided.rebuilt else []),
        *ready_events(observed.server.status.conditions, status.conditions),
    ]
