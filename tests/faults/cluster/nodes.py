"""The one stand-in: scheduler, kubelets and what runs in the pods. No container is started.

Each pod that a controller makes is bound to a node, gets an address of the loopback network, and then lives as
its scenario says (`Fate`). What its containers would say has the shapes of the real programs: results are
termination messages as the trainer writes them (trainer.py), serving pods answer /state with the serving
image's own model (agents.py).
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.core.manifests import index_of, label, terminating, text
from tests.faults.cluster.client import ApiServerError, Client, Object
from tests.faults.cluster.history import History, Hub, Revision

NODES = ("node-1", "node-2")
LOCK_PORT = 8001
STAGE = "finetune.dev/stage"
NOW = "2026-01-01T00:00:00Z"


@dataclass
class PlayedPod:
    """One pod, as its kubelet sees it; `stage` is "" for a serving pod."""

    client: Client
    history: History
    namespace: str
    name: str
    manifest: Object
    stage: str
    address: str
    deletion: asyncio.Event = field(default_factory=asyncio.Event)

    async def bind(self) -> None:
        """Give it a node."""
        node = NODES[index_of(self.manifest) % len(NODES)]
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": self.name}, "target": target}
        await self.client.tell_pod(body, self.namespace, "binding")

    async def run(self, ready: bool = True) -> None:
        """Its containers run, and are ready or not."""
        state = {"running": {"startedAt": NOW}}
        status = {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]}
        conditions = [
            {"type": kind, "status": str(kind == "Initialized" or ready), "lastTransitionTime": NOW}
            for kind in ("Initialized", "ContainersReady", "Ready")
        ]
        await self._status({**status, **self._containers(state, ready), "conditions": conditions})

    async def wait(self, reason: str, message: str) -> None:
        """Its containers cannot be started."""
        await self._status(
            {"phase": "Pending", **self._containers({"waiting": {"reason": reason, "message": message}})}
        )

    async def end(self, code: int, message: str = "", reason: str = "") -> None:
        """Its containers have ended."""
        ended = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "message": message}
        phase = "Failed" if code else "Succeeded"
        await self._status({"phase": phase, **self._containers({"terminated": ended})})

    async def evict(self) -> None:
        """Through the eviction API, as a drain does; the API server adds the condition DisruptionTarget."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": self.name}}
        await self.client.tell_pod(body, self.namespace, "eviction")

    async def remove(self) -> None:
        """The kubelet is done with a pod that was to be deleted."""
        await self.client.delete("Pod", self.namespace, self.name, gracePeriodSeconds=0)

    def _containers(self, state: Object, ready: bool = False) -> Object:
        """The status of all containers; those of `initContainers` here are native sidecars or done."""
        spec = self.manifest["spec"]
        parts = {
            "containerStatuses": spec["containers"],
            "initContainerStatuses": spec.get("initContainers", []),
        }
        return {key: [_container(one, state, ready) for one in listed] for key, listed in parts.items()}

    async def _status(self, status: Object) -> None:
        await self.client.patch("Pod", self.namespace, self.name, {"status": status}, "status")


Fate = Callable[[PlayedPod], Awaitable[None]]
"""What happens to a pod from its start until it has ended, or for ever: it is cancelled on deletion."""


@dataclass
class Cast:
    """The fates of one namespace: by stage, the n-th pod (of the same rank) has the n-th; the last repeats.

    The key is a stage, `stage/rank`, or "" for serving pods. `dying` is what happens on deletion.
    """

    fates: Mapping[str, Sequence[Fate]]
    default: Fate
    dying: Fate
    started: Counter[str] = field(default_factory=Counter)

    def next(self, pod: PlayedPod) -> Fate:
        """The fate of a new pod."""
        rank = f"{pod.stage}/{index_of(pod.manifest)}"
        fates = self.fates.get(rank) or self.fates.get(pod.stage) or (self.default,)
        self.started[rank] += 1
        return fates[min(self.started[rank], len(fates)) - 1]


class Nodes:
    """Plays every pod of the namespaces that have a cast."""

    def __init__(self, client: Client, hub: Hub):
        self._client = client
        self._hub = hub
        self._casts: dict[str, Cast] = {}
        self._pods: dict[str, PlayedPod] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._numbers = itertools.count(1)
        self._reservation, self._network = _reserve_network()
        self.faults: list[str] = []
        hub.listen("Pod", self._seen)

    def play(self, namespace: str, cast: Cast) -> None:
        """From now on the pods of a namespace live as this cast says."""
        self._casts[namespace] = cast

    def leave(self, namespace: str) -> None:
        """The pods of this namespace stand still from now on."""
        self._casts.pop(namespace, None)
        for task in [task for task, where in self._tasks.items() if where == namespace]:
            task.cancel()

    async def close(self) -> None:
        """End all pods where they stand."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reservation.close()

    def _seen(self, revision: Revision) -> None:
        metadata = revision.manifest["metadata"]
        cast = self._casts.get(metadata["namespace"])
        if cast is None:
            return
        if metadata["uid"] not in self._pods and revision.event != "DELETED":
            pod = self._pods[metadata["uid"]] = self._pod(revision.manifest)
            task = asyncio.create_task(self._live(pod, cast))
            self._tasks[task] = metadata["namespace"]
            task.add_done_callback(self._ended)
        pod = self._pods[metadata["uid"]]
        pod.manifest = revision.manifest
        if revision.event == "DELETED" or terminating(revision.manifest):
            pod.deletion.set()

    def _pod(self, manifest: Object) -> PlayedPod:
        number, metadata = next(self._numbers), manifest["metadata"]
        address = f"127.{self._network}.{number // 250}.{number % 250 + 1}"
        history = self._hub.history(metadata["namespace"])
        namespace, name = metadata["namespace"], metadata["name"]
        return PlayedPod(self._client, history, namespace, name, manifest, label(manifest, STAGE), address)

    async def _live(self, pod: PlayedPod, cast: Cast) -> None:
        """The fate, until the pod is to be deleted; whatever is gone needs no status."""
        try:
            await pod.bind()
            living = asyncio.ensure_future(cast.next(pod)(pod))
            deletion = asyncio.ensure_future(pod.deletion.wait())
            try:
                await asyncio.wait([living, deletion], return_when=asyncio.FIRST_COMPLETED)
                if living.done():
                    living.result()
                    await deletion
            finally:  # also when the play is over: its server must not keep the address
                living.cancel()
                deletion.cancel()
                await asyncio.gather(living, deletion, return_exceptions=True)
            await cast.dying(pod)
        except ApiServerError as error:
            if error.status not in (404, 409):
                raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append(repr(error))


def _reserve_network() -> tuple[socket.socket, int]:
    """A second byte of loopback addresses that no other session on this machine uses, while the socket is open."""
    for byte in range(64, 256):
        taken = socket.socket()
        try:
            taken.bind((f"127.{byte}.255.254", LOCK_PORT))
        except OSError:
            taken.close()
        else:
            return taken, byte
    raise AssertionError("192 sessions at once")


def _container(spec: Object, state: Object, ready: bool) -> Object:
    head: dict[str, Any] = {"name": spec["name"], "image": text(spec, "image"), "imageID": ""}
    return {**head, "restartCount": 0, "ready": ready, "started": ready, "state": state}
