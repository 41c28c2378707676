"""Why replicas of a ModelServer are missing, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import (
    condition,
    container_statuses,
    integer,
    is_true,
    items,
    mapping,
    text,
)
from finetune_operator.observe.trouble import ENGINE_STARTS, Trouble, pod_troubles
from finetune_operator.render.names import server_name
from finetune_operator.serving.network import AGENT_PORT
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.pod import mounted_claims, mounted_secrets
from finetune_operator.serving.template import Template, in_force, refused

PATIENCE = timedelta(minutes=10)  # an autoscaler brings a node, a cloud attaches a disk
_MORE_MEMORY = {
    "engine": "raise spec.resources.memory",
    "gateway": "its limit of 1Gi is fixed: lower spec.limits.maxBodyBytes or spec.limits.maxInFlight, or "
    "raise spec.replicas",
    "fetch-base": "it has no limit, so the node was out of memory: choose others with spec.nodeSelector",
}
NO_ROOM = frozenset({"Unschedulable", "PodsRefused"})


def trouble_of(observed: Observed, template: Template | None, settings: Settings, now: datetime) -> Trouble:
    """The first thing that keeps replicas from answering, or that they need time."""
    checks: tuple[Callable[[], Iterator[Trouble]], ...] = (
        lambda: _spec(observed, template, settings),
        lambda: _refused_pods(observed),
        lambda: _pods(observed, settings, now),
        lambda: _unreachable(observed, now),
        lambda: _deadline(observed),
    )
    found = next((trouble for check in checks for trouble in check()), None)
    return _starting(observed) if found is None else _with_remedy(observed, found)


def _with_remedy(observed: Observed, trouble: Trouble) -> Trouble:
    """A new pod of a rolling update that finds no room beside the old ones can be let in their place."""
    replicas = observed.server.spec.replicas
    surges = sum(1 for pod in observed.live if pod.ready) >= replicas > 0
    if trouble.reason not in NO_ROOM or not surges or observed.server.spec.upgrade.strategy == "Recreate":
        return trouble
    message = (
        f"{trouble.message.rstrip('.')}. It is the new pod of a rolling update, which starts before an old "
        "one goes; if there is no room for both, the server must recreate: set spec.upgrade.strategy to "
        "Recreate."
    )
    return replace(trouble, message=message)


def _spec(observed: Observed, template: Template | None, settings: Settings) -> Iterator[Trouble]:
    problem = refused(observed.server, settings)
    if problem is not None and not in_force(observed.server, template):
        yield Trouble(*problem, stalled=True)
    for claim in mounted_claims(observed.server):
        if claim not in observed.claims:
            message = f"PersistentVolumeClaim {claim} does not exist in this namespace; create it."
            yield Trouble("ClaimNotFound", message, stalled=True)


def _refused_pods(observed: Observed) -> Iterator[Trouble]:
    """The Deployment's controller says what the API server answers when it creates pods."""
    failure = condition(observed.deployment, "ReplicaFailure")
    if text(failure, "status") == "True":
        name = server_name(observed.server)
        message = f"The API server refuses pods of Deployment {name}: {text(failure, 'message')}"
        yield Trouble("PodsRefused", message, stalled=True)


def _pods(observed: Observed, settings: Settings, now: datetime) -> Iterator[Trouble]:
    secrets = [f"Secret {name}" for name in mounted_secrets(observed.server)]
    for pod in observed.live:
        if pod.answers(now) or pod.unreachable(now):
            continue
        yield from _restarted(pod)
        for trouble in pod_troubles(pod.pod, secrets, settings, now):
            lasting = trouble.since is not None and now - trouble.since >= PATIENCE
            yield replace(trouble, stalled=trouble.stalled or lasting)
        yield from _unready(pod)


def _restarted(pod: PodState) -> Iterator[Trouble]:
    """How the last run of a container ended says more than that it is started again."""
    for container in container_statuses(pod.pod):
        ended = mapping(container, "lastState", "terminated")
        if ended:
            yield _ended(f"Pod {pod.name}, container {text(container, 'name')}", container, ended)


def _ended(where: str, container: Manifest, ended: Manifest) -> Trouble:
    if text(ended, "reason") == "OOMKilled":
        remedy = _MORE_MEMORY.get(
            text(container, "name"), "it needs more memory than whoever added it gives it"
        )
        message = f"{where} was OOM-killed; {remedy}."
        return Trouble("OutOfMemory", message, stalled=True)
    said = (text(ended, "message") or text(ended, "reason") or "no message").strip()
    code = integer(ended, "exitCode")
    message = f"{where}: the last run ended with exit code {code}: {said[-600:]}"
    waits = text(container, "state", "waiting", "reason") == "CrashLoopBackOff"
    stalled = waits or (integer(container, "restartCount") or 0) >= ENGINE_STARTS
    return Trouble("CrashLoopBackOff" if stalled else "Restarted", message, stalled=stalled)


def _unready(pod: PodState) -> Iterator[Trouble]:
    """The agent says why its pod takes no requests yet."""
    said = text(pod.state, "message")
    if said:
        yield Trouble("Starting", f"Pod {pod.name}: {said}.")


def _unreachable(observed: Observed, now: datetime) -> Iterator[Trouble]:
    for pod in observed.live:
        if pod.unreachable(now):
            since = pod.state_at.strftime("%H:%M:%S UTC") if pod.state_at is not None else ""
            yield Trouble(
                "AgentUnreachable",
                f"Pod {pod.name} is Ready, but the operator gets no answer from its port {AGENT_PORT} since "
                f"{since}: check that NetworkPolicies and a service mesh (strict mTLS) let the operator in.",
                stalled=True,
            )


def _deadline(observed: Observed) -> Iterator[Trouble]:
    progress = condition(observed.deployment, "Progressing")
    if text(progress, "reason") == "ProgressDeadlineExceeded":
        message = f"The rollout stands still: {text(progress, 'message')}"
        yield Trouble("ProgressDeadlineExceeded", message, stalled=True)


def _starting(observed: Observed) -> Trouble:
    for pod in observed.live:
        if not pod.ready:
            return Trouble("Starting", _phase(pod))
    if len(observed.live) < observed.server.spec.replicas:
        return Trouble("Starting", "Pods are being created.")
    return Trouble("RollingUpdate", "Pods are being replaced.")


def _phase(pod: PodState) -> str:
    """What a pod does before its agent speaks, from the first container that has not started."""
    statuses = items(pod.pod, "status", "initContainerStatuses")
    status = next((one for one in statuses if not _started(one)), None)
    if statuses and status is None:
        return f"The gateway of pod {pod.name} is starting."
    if "running" in mapping(status, "state"):
        fetches = text(status, "name") == "fetch-base"
        return "The base model is being fetched." if fetches else "The engine is loading the base model."
    if status is not None and is_true(pod.pod, "PodReadyToStartContainers"):
        return f"Image {text(status, 'image')} of pod {pod.name} is being pulled."
    return f"Pod {pod.name} is being set up: node, volumes and network."


def _started(container: Manifest) -> bool:
    """Whether an init container is done, or, as a sidecar, up."""
    done = mapping(container, "state", "terminated")
    return container.get("started") is True or (bool(done) and integer(done, "exitCode") == 0)
