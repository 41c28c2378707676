"""Why replicas of a ModelServer are missing, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import condition, integer, items, mapping, moment, text
from finetune_operator.observe.trouble import ENGINE_STARTS, PULL_REASONS
from finetune_operator.render.names import server_name
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.pod import mounted_claims, mounted_secrets
from finetune_operator.serving.table import Table
from finetune_operator.serving.template import Template, in_force, refused, rolled_out

PLACE_PATIENCE = timedelta(minutes=10)  # an autoscaler brings a node
MOUNT_PATIENCE = timedelta(minutes=2)  # a cloud's disk is attached


@dataclass(frozen=True)
class Trouble:
    """Why the server is not as its spec says. `stalled`: it stays so until a person changes something."""

    reason: str
    message: str
    stalled: bool = True


def trouble_of(
    observed: Observed, template: Template | None, table: Table, settings: Settings, now: datetime
) -> Trouble:
    """The first thing that keeps replicas from answering, or that they need time."""
    checks: tuple[Callable[[], Iterator[Trouble]], ...] = (
        lambda: _spec(observed, template, settings),
        lambda: _refused_pods(observed),
        lambda: _pods(observed, table, now),
        lambda: _unreachable(observed, now),
        lambda: _deadline(observed),
    )
    found = next((trouble for check in checks for trouble in check()), None)
    return found or _starting(observed, template)


def _spec(observed: Observed, template: Template | None, settings: Settings) -> Iterator[Trouble]:
    problem = refused(observed.server, settings)
    if problem is not None and not in_force(observed.server, template):
        yield Trouble(*problem)
    for claim in mounted_claims(observed.server):
        if claim not in observed.claims:
            message = f"PersistentVolumeClaim {claim} does not exist in this namespace; create it."
            yield Trouble("ClaimNotFound", message)


def _refused_pods(observed: Observed) -> Iterator[Trouble]:
    """The Deployment's controller says what the API server answers when it creates pods."""
    failure = condition(observed.deployment, "ReplicaFailure")
    if text(failure, "status") == "True":
        name = server_name(observed.server)
        message = f"The API server refuses pods of Deployment {name}: {text(failure, 'message')}"
        yield Trouble("PodsRefused", message)


def _pods(observed: Observed, table: Table, now: datetime) -> Iterator[Trouble]:
    for pod in observed.live:
        if not pod.answers(now) and not pod.unreachable(now):
            yield from _unscheduled(observed, pod, now)
            yield from _containers(pod)
            yield from _not_starting(observed, pod, now)
            yield from _unready(pod, table)


def _unscheduled(observed: Observed, pod: PodState, now: datetime) -> Iterator[Trouble]:
    placed = condition(pod.pod, "PodScheduled")
    if text(placed, "status") != "False":
        return
    message = f"Pod {pod.name} cannot be scheduled: {text(placed, 'message') or 'no node fits'}"
    if _surges(observed):
        message += (
            ". It is the new pod of a rolling update, which starts before an old one goes; if there is no "
            "room for both, the server must recreate: set spec.upgrade.strategy to Recreate"
        )
    since = moment(placed, "lastTransitionTime") or now
    yield Trouble("Unschedulable", message.rstrip(".") + ".", stalled=now - since >= PLACE_PATIENCE)


def _surges(observed: Observed) -> bool:
    """Whether the missing pod is one more than the spec asks for."""
    replicas = observed.server.spec.replicas
    ready = sum(1 for pod in observed.live if pod.ready)
    return ready >= replicas > 0 and observed.server.spec.upgrade.strategy == "Surge"


def _containers(pod: PodState) -> Iterator[Trouble]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in items(pod.pod, "status", kind):
            yield from _ended(pod, container)
            yield from _waiting(pod, container)


def _ended(pod: PodState, container: Manifest) -> Iterator[Trouble]:
    """A container that ended before: how its last run ended says more than that it is started again."""
    ended = mapping(container, "lastState", "terminated")
    where = f"Pod {pod.name}, container {text(container, 'name')}"
    if text(ended, "reason") == "OOMKilled":
        yield Trouble("OutOfMemory", f"{where} was OOM-killed; raise spec.resources.memory.")
    elif ended:
        said = (text(ended, "message") or text(ended, "reason") or "no message").strip()
        code = integer(ended, "exitCode")
        message = f"{where}: the last run ended with exit code {code}: {said[-600:]}"
        again = text(container, "state", "waiting", "reason") == "CrashLoopBackOff"
        stalled = again or (integer(container, "restartCount") or 0) >= ENGINE_STARTS
        yield Trouble("CrashLoopBackOff" if stalled else "Restarted", message, stalled)


def _waiting(pod: PodState, container: Manifest) -> Iterator[Trouble]:
    waiting = mapping(container, "state", "waiting")
    reason = text(waiting, "reason")
    if reason in ("", "PodInitializing", "ContainerCreating"):
        return
    where = f"Pod {pod.name}, container {text(container, 'name')}"
    said = text(waiting, "message") or reason
    if reason in PULL_REASONS:
        image = text(container, "image")
        yield Trouble("ImagePull", f"{where}: the image {image} cannot be pulled: {said}")
    else:
        yield Trouble(reason, f"{where}: {said}")


def _not_starting(observed: Observed, pod: PodState, now: datetime) -> Iterator[Trouble]:
    """Volumes and network come before the first container; which fails is only in the kubelet's events."""
    since = moment(condition(pod.pod, "PodScheduled"), "lastTransitionTime")
    prepared = text(condition(pod.pod, "PodReadyToStartContainers"), "status")
    if text(pod.pod, "status", "phase") != "Pending" or prepared != "False":
        return
    if since is None or now - since < MOUNT_PATIENCE:
        return
    mounted = [
        *(f"Secret {name}" for name in mounted_secrets(observed.server)),
        *(f"PersistentVolumeClaim {name}" for name in mounted_claims(observed.server)),
    ]
    message = (
        f"Pod {pod.name} has a node, but its volumes or its network are not ready; `kubectl describe pod "
        f"{pod.name}` says which. It mounts {', '.join(mounted)}."
    )
    yield Trouble("PodNotStarting", message)


def _unready(pod: PodState, table: Table) -> Iterator[Trouble]:
    """The engine is up and the agent says why it takes no requests yet."""
    for alias, version in sorted(table.routes.items()):
        entry = pod.version(version)
        if text(entry, "phase") == "Failed":
            reason, said = text(entry, "reason") or "LoadFailed", text(entry, "message")
            yield Trouble("AdapterFailed", f"Pod {pod.name} cannot serve {alias}: {reason}: {said}")
    said = text(pod.state, "message")
    if said:
        yield Trouble("Starting", f"Pod {pod.name}: {said}.", stalled=False)


def _unreachable(observed: Observed, now: datetime) -> Iterator[Trouble]:
    for pod in observed.live:
        if pod.unreachable(now):
            since = pod.state_at.strftime("%H:%M:%S UTC") if pod.state_at is not None else ""
            yield Trouble(
                "AgentUnreachable",
                f"Pod {pod.name} is Ready, but the operator gets no answer from its port 8001 since {since}: "
                "check that NetworkPolicies and a service mesh (strict mTLS) let the operator in.",
            )


def _deadline(observed: Observed) -> Iterator[Trouble]:
    progress = condition(observed.deployment, "Progressing")
    if text(progress, "reason") == "ProgressDeadlineExceeded":
        yield Trouble("ProgressDeadlineExceeded", f"The rollout stands still: {text(progress, 'message')}")


def _starting(observed: Observed, template: Template | None) -> Trouble:
    if not observed.live:
        return Trouble("Starting", "Pods are being created.", stalled=False)
    if any(not pod.ready for pod in observed.live):
        return Trouble("Starting", "The engine is loading the base model.", stalled=False)
    if not rolled_out(observed, template):
        return Trouble("RollingUpdate", "Pods are being replaced.", stalled=False)
    return Trouble("Starting", "Pods are being created.", stalled=False)
