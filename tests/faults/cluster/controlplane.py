"""etcd, kube-apiserver and kube-controller-manager as they are; only nodes are played (nodes.py).

The real Job, Deployment, ReplicaSet, namespace, quota and garbage collection controllers act on what the
operator makes, so a suspended Job, a gang that dies together or a finalizer behaves as in any cluster.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import yaml

from dev.cluster import binaries
from dev.cluster.controlplane import ApiServer, apiserver_command
from dev.cluster.pki import Pki
from dev.cluster.process import Command, Supervisor
from dev.cluster.readiness import answers, client_context, wait_until
from finetune_operator.core.manifests import is_true
from tests.faults.cluster import rbac
from tests.faults.cluster.client import Client, Object
from tests.faults.cluster.history import Hub
from tests.faults.cluster.nodes import NODES, Nodes
from tests.faults.operators.processes import ROOT, Forks

CONTROLLERS = (
    "job-controller", "deployment-controller", "replicaset-controller", "garbage-collector-controller",
    "namespace-controller", "resourcequota-controller", "serviceaccount-controller",
    "persistentvolumeclaim-protection-controller", "horizontal-pod-autoscaler-controller",
)  # fmt: skip
DATA = {"train.jsonl": "{}\n", "holdout.jsonl": "{}\n"}


class Cluster:
    """`async with Cluster(folder) as cluster`: everything that plays share."""

    def __init__(self, folder: Path):
        """`folder` is empty; certificates, logs and data go there."""
        self.folder = folder
        self.client: Client
        self.hub: Hub
        self.nodes: Nodes
        self.forks: Forks
        self._server: ApiServer
        self._roles: list[Object] = []
        self._supervisor = Supervisor(folder / "controllers")
        self._stack = AsyncExitStack()
        self._watching: asyncio.Task[None]

    async def __aenter__(self) -> Cluster:
        """Start, install the CRDs, begin to watch."""
        programs = binaries.ensure(["kube-apiserver", "kube-controller-manager", "helm"])
        self._server = self._stack.enter_context(ApiServer(self.folder, programs))
        self._stack.callback(self._supervisor.stop, ["kube-controller-manager"], 2)
        self.client = Client(self._server.url, client_context(self._server.place.pki, "admin"))
        self._stack.push_async_callback(self.client.close)
        await self._install_crds()
        self._roles = rbac.render(programs)
        for role in rbac.clusterwide(self._roles):
            await self.client.create(role)
        self._supervisor.start(self._controller_manager(programs))
        self.hub = Hub(self.client)
        self.nodes = Nodes(self.client, self.hub)
        for name in NODES:
            await self.client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        self._watching = asyncio.create_task(self.hub.run())
        self.forks = await self._stack.enter_async_context(Forks())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything."""
        await self.nodes.close()
        broken = self._watching.done()
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await self._stack.aclose()
        if broken:
            self._watching.result()  # nothing that was seen after this is worth anything

    async def make_namespace(self, name: str) -> None:
        """A namespace with the claims and the data that the runs and servers of the scenarios name."""
        await self.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for role in rbac.of_lease(self._roles, name):
            await self.client.create(role, name)
        await self.client.create({**_named("ConfigMap", "data"), "data": DATA}, name)
        for claim in ("base-models", "adapters"):
            size = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
            await self.client.create({**_named("PersistentVolumeClaim", claim), "spec": size}, name)

    @property
    def pki(self) -> Pki:
        """The authority and the certificates of the API server."""
        return self._server.place.pki

    async def restart_apiserver(self) -> None:
        """SIGTERM to kube-apiserver, and another one on the same etcd and the same port."""
        place = self._server.place
        supervisor = Supervisor(place.folder)
        await asyncio.to_thread(supervisor.stop, ["kube-apiserver"], 5)
        supervisor.start(apiserver_command(place))
        health, context = f"{place.url}/readyz", client_context(place.pki, "admin")
        await asyncio.to_thread(
            wait_until, lambda: answers(health, context), supervisor, "kube-apiserver", 60
        )

    def _controller_manager(self, programs: Path) -> Command:
        argv: list[str | Path] = [
            programs / "kube-controller-manager",
            f"--kubeconfig={self._server.kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--concurrent-job-syncs=20",
            "--horizontal-pod-autoscaler-sync-period=1s",
        ]
        return Command("kube-controller-manager", argv, tied=True)

    async def _install_crds(self) -> None:
        """Create them and watch until the server says that it serves each."""
        for file in sorted((ROOT / "crds").glob("*.yaml")):
            await self.client.create(yaml.safe_load(file.read_text()))
        found, version = await self.client.list("CustomResourceDefinition", None)
        waiting = {crd["metadata"]["name"] for crd in found if not is_true(crd, "Established")}
        if not waiting:
            return  # on a busy machine the list comes after all of them: no event would follow
        async with asyncio.timeout(30):
            async for event in self.client.watch("CustomResourceDefinition", version):
                if event["type"] != "BOOKMARK" and is_true(event["object"], "Established"):
                    waiting.discard(event["object"]["metadata"]["name"])
                if not waiting:
                    return


def _named(kind: str, name: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
