"""etcd and kube-apiserver with our CRDs, users to be told apart, and what its audit log says about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.operator.client import Client, Object
from benchmarks.operator.objects import NAMESPACES, NODES, PLAIN_CRD, node, surroundings
from dev.cluster import binaries
from dev.cluster.controlplane import ApiServer
from dev.cluster.pki import Identity
from dev.cluster.readiness import client_context
from finetune_operator.core.manifests import is_true
from finetune_operator.runtime.resources import Resource

ROOT = Path(__file__).parents[2]
OPERATOR, PLAIN = "operator-under-test", "plain-handler"
CRDS = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
BINDINGS = Resource("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings")
# As service accounts they are under the API server's fairness, as every operator is; administrators are not.
GROUP = "system:serviceaccounts"


@dataclass(frozen=True)
class ControlPlane:
    """A running API server; everything is under `folder`."""

    server: ApiServer
    folder: Path

    def client(self) -> Client:
        """A connection of the administrator."""
        return Client(self.server.url, client_context(self.server.place.pki, "admin"))

    def kubeconfig(self, user: str) -> Path:
        """The kubeconfig of one of the two users."""
        path = self.folder / f"{user}.kubeconfig"
        self.server.place.pki.issue(Identity(user, user, GROUP))
        path.write_text(self.server.place.pki.kubeconfig(user, self.server.url))
        return path

    def requests(self, user: str) -> Counter[str]:
        """How many requests of a user the server has finished so far, by verb and resource."""
        found: Counter[str] = Counter()
        with _audit_log(self.folder).open() as lines:
            for line in lines:
                event = json.loads(line)
                if event["user"]["username"] == user:
                    found[_described(event)] += 1
        return found


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Both processes, until the end of the block."""
    folder.mkdir(parents=True)
    policy = folder / "audit-policy.yaml"
    policy.write_text(yaml.safe_dump(_audit_policy()))
    flags = [f"--audit-policy-file={policy}", f"--audit-log-path={_audit_log(folder)}"]
    with ApiServer(folder, binaries.ensure(["kube-apiserver"]), flags) as server:
        yield ControlPlane(server, folder)


async def furnish(client: Client) -> None:
    """Install the CRDs and create nodes, namespaces and what runs in them refer to."""
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        await client.create(CRDS, None, yaml.safe_load(file.read_text()))
    await client.create(CRDS, None, PLAIN_CRD)
    await _all_served(client)
    await client.create(BINDINGS, None, _binding())
    for number in range(NODES):
        await client.create(Resource("v1", "Node", "nodes"), None, node(number))
    for namespace in NAMESPACES:
        for resource, where, body in surroundings(namespace):
            await client.create(resource, where, body)


async def _all_served(client: Client) -> None:
    crds, version = await client.list_all(CRDS, None)
    waiting = {crd["metadata"]["name"] for crd in crds if not is_true(crd, "Established")}
    async with aclosing(client.watch(CRDS, None, version)) as events:
        while waiting:
            crd = (await anext(events))["object"]
            if is_true(crd, "Established"):
                waiting.discard(crd["metadata"]["name"])


def _binding() -> Object:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "benchmark"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user} for user in (OPERATOR, PLAIN)],
    }


def _audit_policy() -> Object:
    """One line for every finished request of the two users; a watch finishes when it ends."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata", "users": [OPERATOR, PLAIN]}, {"level": "None"}],
    }


def _audit_log(folder: Path) -> Path:
    return folder / "audit.log"


def _described(event: Object) -> str:
    target = event.get("objectRef", {})
    parts = (target.get("resource", event["requestURI"].partition("?")[0]), target.get("subresource"))
    return f"{event['verb']} {'/'.join(part for part in parts if part)}"
