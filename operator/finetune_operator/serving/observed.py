"""What one reconcile of a ModelServer sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Any

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core.actions import Manifest, Refusal
from finetune_operator.core.manifests import (
    address,
    controlled_by,
    controller_uid,
    integer,
    items,
    label,
    number,
    text,
)
from finetune_operator.render.names import server_name

AGENT_PATIENCE = timedelta(seconds=30)
GENERATION = "finetune.dev/manifest-generation"
MOST_COUNTED = 2**40
MOST_GENERATIONS = 2**53  # no number that a pod makes up may overflow the status


@dataclass(frozen=True)
class PodState:
    """One serving pod and what its agent said last under `/state` (None while it never answered).

    `state_at` is when it answered last, or, if it never did, when it was first asked; None means that
    nobody has asked yet.
    """

    name: str
    uid: str
    ready: bool
    terminating: bool
    pod: Manifest
    state: Mapping[str, Any] | None
    state_at: datetime | None = None

    @property
    def live(self) -> bool:
        """Whether it counts as a replica: evicted pods and pods that are being deleted do not."""
        return not self.terminating and text(self.pod, "status", "phase") not in ("Failed", "Succeeded")

    @property
    def unasked(self) -> bool:
        """Whether it serves and nobody has asked its agent yet, as after a restart of the operator."""
        can_answer = self.ready and self.live and address(self.pod) is not None
        return can_answer and self.state is None and self.state_at is None

    def unreachable(self, now: datetime) -> bool:
        """Whether it is Ready for the kubelet, but has not told the operator anything for a while."""
        silent = self.state_at is not None and now - self.state_at > AGENT_PATIENCE
        return self.ready and self.live and silent

    def answers(self, now: datetime) -> bool:
        """Whether it serves requests, by the kubelet and by its own word."""
        says_no = self.state is not None and self.state.get("ready") is False
        return self.ready and self.live and not says_no and not self.unreachable(now)

    @property
    def generation(self) -> int:
        """The newest server manifest that it has seen, 0 before the first."""
        return max(self._number("generation"), self.applied)

    @property
    def applied(self) -> int:
        """The server manifest whose routes are in force on it, 0 before the first."""
        return self._number("appliedGeneration")

    @cached_property
    def versions(self) -> Mapping[str, Mapping[str, Any]]:
        """What it says of each version that it holds or fetches, by name."""
        return {text(entry, "name"): entry for entry in items(self.state, "versions")}

    def version(self, name: str) -> Mapping[str, Any]:
        """What it says of one version, empty when it does not know it."""
        return self.versions.get(name, {})

    def tries_again(self, name: str) -> bool:
        """Whether its next attempt at a version that failed comes by itself; an older agent does not tell."""
        return self.version(name).get("triedAgain") is True

    @property
    def process(self) -> str:
        """The gateway process, whose counters began at 0 with it; "" of an older agent, which lacks some."""
        return text(self.state, "processId")[:64]

    def counters(self, name: str) -> tuple[int, ...]:
        """Requests, failures, empty and cut answers of a version, and milliseconds to their end and begin."""
        told, times = self.version(name), ("seconds", "firstByteSeconds")
        numbers = [integer(told, key) or 0 for key in ("requests", "failures", "empty", "cut")]
        numbers += [int((number(told, key) or 0.0) * 1000) for key in times]
        return tuple(min(max(one, 0), MOST_COUNTED) for one in numbers)

    @cached_property
    def unanswered(self) -> Mapping[str, Mapping[str, Any]]:
        """The aliases that it routes and cannot answer, with what it says of each."""
        return {
            text(one, "alias"): one for one in items(self.state, "aliases") if one.get("answers") is False
        }

    @property
    def takes_candidates(self) -> bool:
        """Whether its image knows versions that are asked without an alias; an older agent lists none."""
        return self.state is None or "candidates" in self.state

    def _number(self, key: str) -> int:
        told = integer(self.state, key) or 0
        return told if 0 < told < MOST_GENERATIONS else 0

    def phase(self, name: str) -> str:
        """The phase of a version on this pod, "" when it does not know it."""
        return text(self.version(name), "phase")


@dataclass(frozen=True)
class Unreadable:
    """An AdapterDeployment that cannot be read (stored by another version, say), and why."""

    name: str
    alias: str
    created: str
    message: str


@dataclass(frozen=True)
class Observed:
    """A ModelServer, its children and everything that wants to be served on it.

    `deployment`, `service`, `policy`, `budget` and `manifest` (the ConfigMap) are the objects of these names
    whoever owns them, None while absent; `revision` is the ControllerRevision that the status names, and
    `revisions` are all of the server's; `pods` are the server's own. `deployments` are the
    AdapterDeployments that name this server; `claims` holds the PersistentVolumeClaims that the server
    mounts, a missing one being an absent key. `runs` are the FineTuneJobs that score on this server. `peers`
    are the other ModelServers, read only while this one waits for its turn to upgrade.
    """

    server: ModelServer
    deployment: Manifest | None
    manifest: Manifest | None
    pods: tuple[PodState, ...] = ()
    deployments: tuple[AdapterDeployment, ...] = ()
    claims: Mapping[str, Manifest] = field(default_factory=dict)
    service: Manifest | None = None
    policy: Manifest | None = None
    budget: Manifest | None = None
    revision: Manifest | None = None
    revisions: tuple[Manifest, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    peers: tuple[ModelServer, ...] = ()
    runs: tuple[FineTuneJob, ...] = ()
    refusal: Refusal | None = None

    def owns(self, child: Manifest | None) -> bool:
        """Whether the server controls an object."""
        return child is not None and controller_uid(child) == self.server.metadata.uid

    @property
    def live(self) -> tuple[PodState, ...]:
        """The pods that count as replicas."""
        return tuple(pod for pod in self.pods if pod.live)

    def answering(self, now: datetime) -> tuple[PodState, ...]:
        """The pods that serve requests now."""
        return tuple(pod for pod in self.pods if pod.answers(now))


def told_generation(pod: Manifest) -> int:
    """The generation of the server manifest that a pod was told of by its annotation, 0 before the first."""
    told = text(pod, "metadata", "annotations", GENERATION)
    return int(told) if told.isascii() and told.isdigit() else 0


def slots_of(pod: Manifest) -> int | None:
    """How many adapters the engine of a pod or of a pod template holds, as its arguments say."""
    for container in items(pod, "spec", "initContainers"):
        args = container.get("args")
        given = dict(pairwise(map(str, args))) if isinstance(args, (list, tuple)) else {}
        if (slots := given.get("--max-cpu-loras", "")).isdigit():
            return int(slots)
    return None


def is_replica(server: ModelServer, pod: Manifest) -> bool:
    """Whether a pod was made for this server: a ReplicaSet of its Deployment controls it.

    A copy of a pod carries the labels, but nothing controls it.
    """
    return controlled_by(pod, "ReplicaSet", f"{server_name(server)}-{label(pod, 'pod-template-hash')}")
