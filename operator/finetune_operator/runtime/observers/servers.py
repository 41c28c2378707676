"""Observes a ModelServer: its children, its pods and what their agents say, and who wants to be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core import manifests
from finetune_operator.core.actions import Manifest
from finetune_operator.render.names import manifest_name, server_name
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.cache.store import Stores
from finetune_operator.runtime.client import Object
from finetune_operator.runtime.observers.lookups import Lookups
from finetune_operator.runtime.pods import Poller
from finetune_operator.runtime.resources import Key
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.pod import mounted_claims

TEMPLATE_HASH = "pod-template-hash"


@dataclass(frozen=True)
class ServerObserver:
    """Caches only. The server manifest is written with the resourceVersion that it was decided from, since
    two decisions on one old manifest would give two tables the same generation.
    """

    owners: Owners
    stores: Stores
    lookups: Lookups
    poller: Poller

    async def __call__(self, owner: Object) -> Observed:
        """Read everything that the plan for this server may look at; raises ApiError."""
        server = ModelServer.model_validate(owner)
        namespace, name = server.metadata.namespace, server_name(server)
        key = Key("ModelServer", namespace, server.metadata.name)
        return Observed(
            server=server,
            deployment=self.stores.deployments.get(namespace, name),
            manifest=self.stores.configmaps.get(namespace, manifest_name(server)),
            pods=tuple(map(self._state, self._pods(server))),
            deployments=tuple(AdapterDeployment.model_validate(one) for one in self.owners.naming(key)),
            claims=await self.lookups.claims(namespace, mounted_claims(server)),
            service=self.stores.services.get(namespace, name),
            policy=self.stores.policies.get(namespace, name),
        )

    def forget(self, key: Key) -> None:
        """Nothing is kept of a server."""

    def _pods(self, server: ModelServer) -> list[Manifest]:
        """The pods of the server's ReplicaSets. Those are not watched, but their names say whose they are."""
        kept = self.stores.pods.owned_by(server.metadata.namespace, server.metadata.uid)
        return [pod for pod in kept if _replica_set_of(pod) == _expected_replica_set(server, pod)]

    def _state(self, pod: Manifest) -> PodState:
        answer = self.poller.answer(pod)
        return PodState(
            name=manifests.name_of(pod),
            uid=manifests.uid_of(pod),
            ready=manifests.is_true(pod, "Ready"),
            terminating=manifests.terminating(pod),
            pod=pod,
            state=answer.document if answer.reachable else None,
            state_at=answer.at,
        )


def _replica_set_of(pod: Manifest) -> str:
    references = manifests.items(pod, "metadata", "ownerReferences")
    controller: Mapping[str, object] = next((r for r in references if r.get("controller") is True), {})
    return manifests.text(controller, "name") if controller.get("kind") == "ReplicaSet" else ""


def _expected_replica_set(server: ModelServer, pod: Manifest) -> str:
    return f"{server_name(server)}-{manifests.label(pod, TEMPLATE_HASH)}"
