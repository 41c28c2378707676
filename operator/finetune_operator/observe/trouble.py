"""Why pods do not run, in words, and how long that may last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import (
    condition,
    index_of,
    integer,
    items,
    mapping,
    moment,
    name_of,
    text,
    unfinished,
)
from finetune_operator.observe.outcome import AttemptOutcome
from finetune_operator.render.credentials import Credential, credentials

PULL_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
ENGINE_STARTS = 3
PLACE_PATIENCE = timedelta(seconds=5)
MOUNT_PATIENCE = timedelta(seconds=15)
POD_PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from running. `fatal` is the outcome once it has lasted too long."""

    reason: str
    message: str
    since: datetime | None = None
    patience_seconds: float | None = None
    fatal: AttemptOutcome | None = None

    def outcome(self, now: datetime, noted: datetime) -> AttemptOutcome | None:
        """The end of the attempt, once waiting has no use; `noted` is when the trouble was first seen."""
        if self.fatal is not None or self.patience_seconds is None:
            return self.fatal
        begun = max(noted, self.since or noted)  # a pod that came after an older trouble has its own time
        if now - begun < timedelta(seconds=self.patience_seconds):
            return None
        seconds = int((now - begun).total_seconds())
        message = f"{self.message} This has lasted {seconds} s, longer than the administrator allows."
        return AttemptOutcome(False, self.reason, message)


def trouble_of(
    job: FineTuneJob, child: Manifest, pods: Sequence[Manifest], settings: Settings, now: datetime
) -> Trouble | None:
    """The first trouble of the pods of a running attempt, lowest index first; None when all is well."""
    alive = [pod for pod in unfinished(pods) if not text(pod, "metadata", "deletionTimestamp")]
    for pod in sorted(alive, key=index_of):
        found = next(_of_pod(job, pod, settings, now), None)
        if found is not None:
            return found
    return None if pods else _no_pods(child, now)


def scheduled(pods: Sequence[Manifest]) -> bool:
    """Whether the pods that are there have their nodes."""
    return bool(pods) and all(text(pod, "spec", "nodeName") for pod in unfinished(pods))


def _of_pod(job: FineTuneJob, pod: Manifest, settings: Settings, now: datetime) -> Iterator[Trouble]:
    yield from _unscheduled(pod, settings, now)
    containers = (*items(pod, "status", "initContainerStatuses"), *items(pod, "status", "containerStatuses"))
    for container in containers:
        yield from _image(pod, container, settings)
        yield from _configuration(pod, container)
        yield from _engine(pod, container)
    yield from _volumes(job, pod, now)


def _unscheduled(pod: Manifest, settings: Settings, now: datetime) -> Iterator[Trouble]:
    """A new volume is bound a moment after the pod that wants it came; that is no trouble yet."""
    placed = condition(pod, "PodScheduled")
    if text(placed, "status") != "False":
        return
    since = moment(placed, "lastTransitionTime") or moment(pod, "metadata", "creationTimestamp")
    if since is not None and now - since < PLACE_PATIENCE:
        return
    why = text(placed, "message") or "no node fits"
    yield Trouble(
        "Unschedulable",
        f"No node takes pod {name_of(pod)}: {why}",
        since=since,
        patience_seconds=settings.unschedulable_deadline_seconds,
    )


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
        since=moment(pod, "metadata", "creationTimestamp"),
        patience_seconds=settings.image_pull_deadline_seconds,
    )


def _image_of(pod: Manifest, name: str) -> str:
    specs = (*items(pod, "spec", "containers"), *items(pod, "spec", "initContainers"))
    return next((text(spec, "image") for spec in specs if spec.get("name") == name), "")


def _configuration(pod: Manifest, container: Manifest) -> Iterator[Trouble]:
    waiting = mapping(container, "state", "waiting")
    if text(waiting, "reason") in CONFIG_REASONS:
        detail = _short(text(waiting, "message") or text(waiting, "reason"))
        yield Trouble(
            "ContainerConfig",
            f"Container {text(container, 'name')} of pod {name_of(pod)} cannot be created: {detail}",
        )


def _engine(pod: Manifest, container: Manifest) -> Iterator[Trouble]:
    """A sidecar is restarted for ever; after a few starts more of them tell nothing new."""
    if text(container, "name") != "engine" or (integer(container, "restartCount") or 0) < ENGINE_STARTS:
        return
    ended = mapping(container, "lastState", "terminated")
    message = (
        f"The engine of pod {name_of(pod)} ended {integer(container, 'restartCount')} times, last with exit "
        f"code {integer(ended, 'exitCode')}: {_short(text(ended, 'message') or 'no message', 600)}"
    )
    killed = text(ended, "reason") == "OOMKilled"
    if killed:
        message = f"The engine of pod {name_of(pod)} needs more memory; raise spec.resources.memory."
    reason = "OutOfMemory" if killed else "EngineFailed"
    yield Trouble(reason, message, fatal=AttemptOutcome(False, reason, message))


def _volumes(job: FineTuneJob, pod: Manifest, now: datetime) -> Iterator[Trouble]:
    """Until the volumes are mounted there is no sandbox; the kubelet tells the reason only in events.

    Nor is there one when the pod has done its work and is being taken down: then it is no longer Pending.
    """
    if text(pod, "status", "phase") != "Pending":
        return
    since = moment(condition(pod, "PodScheduled"), "lastTransitionTime")
    ready = text(condition(pod, "PodReadyToStartContainers"), "status")
    if ready != "False" or since is None or now - since < MOUNT_PATIENCE:
        return
    mounted = items(pod, "spec", "volumes")
    projected = [source for volume in mounted for source in items(volume, "projected", "sources")]
    named = {text(source, "secret", "name") for source in projected}
    secrets = [_described(credential) for credential in credentials(job) if credential.secret in named]
    claims = [
        f"PersistentVolumeClaim {text(volume, 'persistentVolumeClaim', 'claimName')}"
        for volume in mounted
        if "persistentVolumeClaim" in volume
    ]
    reason = "SecretOrVolumeMissing" if secrets else "VolumesNotMounted"
    yield Trouble(
        reason,
        f"Pod {name_of(pod)} waits for its volumes; check that these exist here and can be mounted: "
        f"{', '.join([*dict.fromkeys(secrets), *claims])}.",
    )


def _described(credential: Credential) -> str:
    keys = " and ".join(credential.required) or " or ".join(credential.optional)
    return f"Secret {credential.secret} with the key{'s' if ' ' in keys else ''} {keys}"


def _no_pods(child: Manifest, now: datetime) -> Trouble | None:
    since = moment(child, "status", "startTime")
    if since is None or now - since < POD_PATIENCE:
        return None
    return Trouble(
        "NoPods",
        f"Job {name_of(child)} has no pod yet; `kubectl describe job {name_of(child)}` tells whether a quota "
        "or an admission rule refuses it.",
    )


def _short(message: str, limit: int = 300) -> str:
    """The end of a message says most: the beginning repeats names."""
    return message if len(message) <= limit else "…" + message[-limit + 1 :]
