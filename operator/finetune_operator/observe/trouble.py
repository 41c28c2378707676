"""Why pods do not run, in words, and how long that may last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import (
    condition,
    container_specs,
    container_statuses,
    index_of,
    integer,
    is_true,
    items,
    mapping,
    moment,
    name_of,
    placed_at,
    terminating,
    text,
    unfinished,
)
from finetune_operator.core.times import format_time
from finetune_operator.render.credentials import (
    Credential,
    credentials,
    export_credentials,
    judge_credential,
)

PULL_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
ENGINE_STARTS = 3
PLACE_PATIENCE = timedelta(seconds=5)
MOUNT_PATIENCE = timedelta(seconds=60)
"""An ordinary attach of a cloud disk takes tens of seconds."""
POD_PATIENCE = timedelta(seconds=30)
SCHEDULER_PATIENCE = timedelta(seconds=60)


@dataclass(frozen=True)
class Trouble:
    """What keeps pods from running, in a sentence.

    `since` is when it began as far as the cluster tells. `deadline_seconds` is how long it may last (None: as
    long as it takes); then the attempt ends as `outcome`, at once where the deadline is 0.
    `stalled`: only a person can mend it. `node` is the node that it happened on, `grader` the container of
    the grader whose fault it is.
    """

    reason: str
    message: str
    outcome: str = ""
    since: datetime | None = None
    deadline_seconds: float | None = None
    stalled: bool = False
    node: str | None = None
    grader: str | None = None


def trouble_of(
    job: FineTuneJob, child: Manifest, pods: Sequence[Manifest], settings: Settings, now: datetime
) -> Trouble | None:
    """The first trouble of the pods of a running attempt, lowest index first; None when all is well.

    What holds a node and does not run is given `stuckDeadlineSeconds`.
    """
    alive = sorted(unfinished(pods), key=index_of)
    found = [trouble for pod in alive if (trouble := next(_of_stage_pod(job, pod, settings, now), None))]
    first = found[0] if found else _too_few_pods(child, pods, now)
    placed = [pod for pod in alive if text(pod, "spec", "nodeName")]
    wanted = len(alive) + _lacking(child, pods)
    if first is None or not 0 < len(placed) < wanted:
        return first
    return _of_gang(first, wanted, placed, settings)


def _of_stage_pod(job: FineTuneJob, pod: Manifest, settings: Settings, now: datetime) -> Iterator[Trouble]:
    yield from pod_troubles(pod, _secrets(job, pod), settings, now)
    if not terminating(pod):
        yield from _crashing(pod, settings)
        yield from _never_started(pod, settings, now)


def _crashing(pod: Manifest, settings: Settings) -> Iterator[Trouble]:
    """A container that somebody injected and that ends again and again keeps the stage's from starting."""
    for container in container_statuses(pod):
        waiting, ended = mapping(container, "state", "waiting"), mapping(container, "lastState", "terminated")
        if text(waiting, "reason") == "CrashLoopBackOff" and text(container, "name") != "engine":
            said = _short(text(ended, "message") or text(waiting, "message"))
            message = (
                f"Container {text(container, 'name')} of pod {name_of(pod)} ended "
                f"{integer(container, 'restartCount') or 0} times, last with exit code "
                f"{integer(ended, 'exitCode')}: {said}"
            )
            limit = _while_holding_gpus(pod, settings)
            node = text(pod, "spec", "nodeName")
            yield Trouble("CrashLoopBackOff", message, "NotStarted", deadline_seconds=limit, node=node)


def _never_started(pod: Manifest, settings: Settings, now: datetime) -> Iterator[Trouble]:
    """Whatever the cause: every wait that has a limit of its own is over, and nothing runs."""
    since, node = placed_at(pod), text(pod, "spec", "nodeName")
    limit = (
        settings.stuck_deadline_seconds + settings.engine_start_seconds + settings.image_pull_deadline_seconds
    )
    pending = node and text(pod, "status", "phase") == "Pending"
    if pending and since is not None and now - since >= timedelta(seconds=limit):
        message = (
            f"Pod {name_of(pod)} has been on node {node} since {format_time(since)} and does not run; see "
            f"`kubectl describe pod {name_of(pod)}`."
        )
        deadline = limit if _while_holding_gpus(pod, settings) else None
        yield Trouble("PodNotStarted", message, "NotStarted", since, deadline, node=node)


def scheduled(child: Manifest, pods: Sequence[Manifest]) -> bool:
    """Whether all pods of the Job are there and have their nodes."""
    placed = all(text(pod, "spec", "nodeName") for pod in unfinished(pods))
    return bool(pods) and placed and not _lacking(child, pods)


def _lacking(child: Manifest, pods: Sequence[Manifest]) -> int:
    """How many pods the Job controller has not made, or not been allowed to make."""
    return max(0, (integer(child, "spec", "completions") or 1) - len({index_of(pod) for pod in pods}))


def _all_were_made(child: Manifest) -> bool:
    """Whether the Job counts all its pods: one that is not there has just gone, and the Job will tell how."""
    counted = (integer(child, "status", state) or 0 for state in ("active", "succeeded", "failed"))
    return sum(counted) >= (integer(child, "spec", "completions") or 1)


def steady(pod: Manifest) -> bool:
    """Whether the pod runs, none of its containers has ended, and nobody wants it gone."""
    ended = any(mapping(c, "state", "terminated") for c in items(pod, "status", "containerStatuses"))
    return text(pod, "status", "phase") == "Running" and not ended and not terminating(pod)


def _of_gang(trouble: Trouble, wanted: int, placed: Sequence[Manifest], settings: Settings) -> Trouble:
    """A gang that is placed in part holds GPUs that compute nothing, so it may not wait for long.

    Its time begins when the first pod got its node: until then it held nothing.
    """
    nodes = ", ".join(sorted({text(pod, "spec", "nodeName") for pod in placed}))
    said = f"{len(placed)} of {wanted} pods have nodes ({nodes}), which they hold idle. {trouble.message}"
    if trouble.reason not in ("Unschedulable", "NoPods"):
        return replace(trouble, message=said)
    limit = min(settings.stuck_deadline_seconds, settings.unschedulable_deadline_seconds)
    first = min(filter(None, map(placed_at, placed)), default=None)
    since = max(filter(None, (trouble.since, first)), default=None)
    return Trouble("GangIncomplete", said, "PeersMissing", since, limit)


def pod_troubles(
    pod: Manifest, secrets: Sequence[str], settings: Settings, now: datetime
) -> Iterator[Trouble]:
    """What keeps a pod of a run or of a server from running; `secrets` describes those that it mounts."""
    yield from _node_lost(pod, settings, now)
    if terminating(pod):
        return
    yield from _unscheduled(pod, settings, now)
    for container in container_statuses(pod):
        yield from _image(pod, container, settings)
        yield from _configuration(pod, container, settings)
        yield from _engine(pod, container)
    yield from _not_started(pod, secrets, settings, now)


def overdue(pod: Manifest, now: datetime) -> bool:
    """Whether a pod should be gone: its deletionTimestamp, which is after its grace period, has passed."""
    due = moment(pod, "metadata", "deletionTimestamp")
    return due is not None and now > due + PLACE_PATIENCE


def _node_lost(pod: Manifest, settings: Settings, now: datetime) -> Iterator[Trouble]:
    """A node that stops answering: its pods are marked not ready, then deleted, and stay until it is back."""
    node = text(pod, "spec", "nodeName")
    lost = Trouble(
        "NodeNotReady", "", "NodeLost", deadline_seconds=settings.stuck_deadline_seconds, node=node
    )
    if overdue(pod, now):
        since = moment(pod, "metadata", "deletionTimestamp")
        yield replace(
            lost,
            since=since,
            message=f"Node {node} does not confirm the end of pod {name_of(pod)}, due at "
            f"{text(pod, 'metadata', 'deletionTimestamp')}; if it is down: `kubectl delete node {node}`.",
        )
    ready = condition(pod, "Ready")
    unheard = text(ready, "status") == "False" and is_true(pod, "ContainersReady")
    if unheard and text(pod, "status", "phase") == "Running":
        yield replace(
            lost,
            since=moment(ready, "lastTransitionTime"),
            message=f"Node {node} of pod {name_of(pod)} does not answer since "
            f"{text(ready, 'lastTransitionTime')}; see `kubectl describe node {node}`.",
        )


def _unscheduled(pod: Manifest, settings: Settings, now: datetime) -> Iterator[Trouble]:
    """A new volume is bound a moment after the pod that wants it came; that is no trouble yet."""
    placed = condition(pod, "PodScheduled")
    unseen = not placed and not text(pod, "spec", "nodeName")
    if not unseen and text(placed, "status") != "False":
        return
    since = moment(placed, "lastTransitionTime") or moment(pod, "metadata", "creationTimestamp")
    patience = SCHEDULER_PATIENCE if unseen else PLACE_PATIENCE
    if (since is None and unseen) or (since is not None and now - since < patience):
        return
    scheduler = text(pod, "spec", "schedulerName") or "default-scheduler"
    missing = f"{scheduler} has not looked at it; check that this scheduler runs"
    why = missing if unseen else text(placed, "message") or "no node fits"
    limit = settings.unschedulable_deadline_seconds
    message = f"Pod {name_of(pod)} cannot be scheduled: {why}"
    yield Trouble("Unschedulable", message, "Unschedulable", since, limit)


def _image(pod: Manifest, container: Manifest, settings: Settings) -> Iterator[Trouble]:
    waiting = mapping(container, "state", "waiting")
    reason = text(waiting, "reason")
    if reason not in PULL_REASONS:
        return
    detail = text(waiting, "message") or reason
    image = text(container, "image") or _image_of(pod, text(container, "name"))
    yield Trouble(
        "ImagePull",
        f"The image {image} of pod {name_of(pod)} cannot be pulled; check its name in the operator's "
        f"settings and that the nodes may pull from its registry ({_short(detail)}).",
        "ImagePull",
        deadline_seconds=settings.image_pull_deadline_seconds,
        stalled=True,
        node=text(pod, "spec", "nodeName"),
    )


def _image_of(pod: Manifest, name: str) -> str:
    specs = (spec for spec in container_specs(pod) if spec.get("name") == name)
    return next((text(spec, "image") for spec in specs), "")


def _configuration(pod: Manifest, container: Manifest, settings: Settings) -> Iterator[Trouble]:
    waiting = mapping(container, "state", "waiting")
    if text(waiting, "reason") in CONFIG_REASONS:
        detail = _short(text(waiting, "message") or text(waiting, "reason"))
        yield Trouble(
            "ContainerConfig",
            f"Container {text(container, 'name')} of pod {name_of(pod)} cannot be created: {detail}",
            "NotStarted",
            deadline_seconds=_while_holding_gpus(pod, settings),
            stalled=True,
            node=text(pod, "spec", "nodeName"),
        )


def _engine(pod: Manifest, container: Manifest) -> Iterator[Trouble]:
    """A sidecar is restarted forever; after three ends it is given up, unless it runs now."""
    restarts = integer(container, "restartCount") or 0
    if text(container, "name") != "engine" or restarts < ENGINE_STARTS or container.get("started") is True:
        return
    ended = mapping(container, "lastState", "terminated")
    message = (
        f"The engine of pod {name_of(pod)} ended {restarts} times, last with exit "
        f"code {integer(ended, 'exitCode')}: {_short(text(ended, 'message') or 'no message', 600)}"
    )
    killed = text(ended, "reason") == "OOMKilled"
    if killed:
        message = f"The engine of pod {name_of(pod)} was OOM-killed; raise spec.resources.memory."
    reason = "OutOfMemory" if killed else "EngineFailed"
    yield Trouble(reason, message, reason, deadline_seconds=0, node=text(pod, "spec", "nodeName"))


def _not_started(
    pod: Manifest, secrets: Sequence[str], settings: Settings, now: datetime
) -> Iterator[Trouble]:
    """Placed, but without a sandbox: volumes, network or the node; the kubelet tells which only in events."""
    if text(pod, "status", "phase") != "Pending":
        return
    since = placed_at(pod)
    ready = text(condition(pod, "PodReadyToStartContainers"), "status")
    if ready != "False" or since is None or now - since < MOUNT_PATIENCE:
        return
    node, name = text(pod, "spec", "nodeName"), name_of(pod)
    mounted = ", ".join([*secrets, *_claims(pod)])
    yield Trouble(
        "SecretOrVolumeMissing" if secrets else "PodNotStarted",
        f"Pod {name} on node {node} does not start; check that these exist and can be mounted: {mounted}. "
        f"`kubectl describe pod {name}` shows whether it is a volume or the pod network.",
        "NotStarted",
        since=since,
        deadline_seconds=_while_holding_gpus(pod, settings),
        stalled=bool(secrets),
        node=node,
    )


def _while_holding_gpus(pod: Manifest, settings: Settings) -> float | None:
    """Kubernetes knows a GPU only as an extended resource, whose name has a domain of its vendor."""
    limits = [
        name for container in container_specs(pod) for name in mapping(container, "resources", "limits")
    ]
    return settings.stuck_deadline_seconds if any("/" in name for name in limits) else None


def _secrets(job: FineTuneJob, pod: Manifest) -> list[str]:
    projected = [s for volume in items(pod, "spec", "volumes") for s in items(volume, "projected", "sources")]
    named = {text(source, "secret", "name") for source in projected}
    given = [*credentials(job), *filter(None, [judge_credential(job)]), *export_credentials(job)]
    return list(dict.fromkeys(_described(c) for c in given if c.secret in named))


def _claims(pod: Manifest) -> list[str]:
    names = (text(v, "persistentVolumeClaim", "claimName") for v in items(pod, "spec", "volumes"))
    return [f"PersistentVolumeClaim {name}" for name in names if name]


def _described(credential: Credential) -> str:
    keys = " and ".join(credential.required) or " or ".join(credential.optional)
    return f"Secret {credential.secret} with the key{'s' if ' ' in keys else ''} {keys}"


def _too_few_pods(child: Manifest, pods: Sequence[Manifest], now: datetime) -> Trouble | None:
    since, name = moment(child, "status", "startTime"), name_of(child)
    lacking = _lacking(child, pods)
    if not lacking or since is None or now - since < POD_PATIENCE or _all_were_made(child):
        return None
    made = f"{len(pods)} of {len(pods) + lacking} pods" if pods else "no pod yet"
    return Trouble(
        "NoPods",
        f"Job {name} has {made}; `kubectl describe job {name}` tells whether a quota or an admission rule "
        "refuses the rest.",
        since=since,
    )


def _short(message: str, limit: int = 300) -> str:
    """The end of a message says most: the beginning repeats names."""
    return message if len(message) <= limit else "…" + message[-limit + 1 :]
