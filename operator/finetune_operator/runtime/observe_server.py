"""Observes a ModelServer: its children, its pods and what their agents say, and who wants to be served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core import manifests
from finetune_operator.core.actions import Manifest
from finetune_operator.render.names import manifest_name, server_name
from finetune_operator.runtime.client import Api, Object
from finetune_operator.runtime.fetch import Fetch
from finetune_operator.runtime.observe_job import read_claims
from finetune_operator.runtime.resources import (
    ADAPTERDEPLOYMENT,
    CONFIGMAP,
    DEPLOYMENT,
    NETWORKPOLICY,
    SERVICE,
)
from finetune_operator.runtime.stores import Stores
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.pod import mounted_claims

STATE_PORT = 8001


@dataclass(frozen=True)
class ServerObserver:
    """Callable on the live object. The manifest and the AdapterDeployments are read live: two decisions from
    one old manifest would give two tables the same generation.
    """

    api: Api
    stores: Stores
    fetch: Fetch

    async def __call__(self, owner: Object) -> Observed:
        """Read everything that the plan for this server may look at; raises ApiError."""
        server = ModelServer.model_validate(owner)
        namespace, name = server.metadata.namespace, server_name(server)
        deployment, manifest, service, policy = await asyncio.gather(
            self._deployment(namespace, name),
            self.api.get(CONFIGMAP, namespace, manifest_name(server)),
            self.api.get(SERVICE, namespace, name),
            self.api.get(NETWORKPOLICY, namespace, name),
        )
        pods, deployments, claims = await asyncio.gather(
            self._pods(server.metadata.uid),
            self._deployments(namespace, server.metadata.name),
            read_claims(self.api, namespace, mounted_claims(server)),
        )
        return Observed(server, deployment, manifest, pods, deployments, claims, service, policy)

    async def _deployment(self, namespace: str, name: str) -> Manifest | None:
        """The Deployment; live when the store lacks it, which also finds one that is not ours."""
        return self.stores.deployments.get(namespace, name) or await self.api.get(DEPLOYMENT, namespace, name)

    async def _deployments(self, namespace: str, server: str) -> tuple[AdapterDeployment, ...]:
        found, _ = await self.api.list_all(ADAPTERDEPLOYMENT, namespace)
        every = [AdapterDeployment.model_validate(manifest) for manifest in found]
        return tuple(deployment for deployment in every if deployment.spec.server_ref.name == server)

    async def _pods(self, uid: str) -> tuple[PodState, ...]:
        pods = self.stores.pods.owned_by(uid)
        return tuple(await asyncio.gather(*map(self._pod, pods)))

    async def _pod(self, pod: Manifest) -> PodState:
        return PodState(
            name=manifests.name_of(pod),
            uid=pod["metadata"]["uid"],
            ready=manifests.is_true(pod, "Ready"),
            terminating=manifests.terminating(pod),
            pod=pod,
            state=await self._state(pod),
        )

    async def _state(self, pod: Manifest) -> Mapping[str, Any] | None:
        where = manifests.address(pod)
        return None if where is None else await self.fetch(where, STATE_PORT, "/state")
