"""Observes a ModelServer: its children, its pods and what their agents say, and who wants to be served."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import ValidationError

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
    MODELSERVER,
    NETWORKPOLICY,
    SERVICE,
)
from finetune_operator.runtime.stores import Stores
from finetune_operator.serving.observed import Observed, PodState, Unreadable, is_replica
from finetune_operator.serving.pod import mounted_claims
from finetune_operator.serving.template import waits_for_turn

STATE_PORT = 8001


@dataclass(frozen=True)
class ServerObserver:
    """Callable on the live object. The manifest and the AdapterDeployments are read live: two decisions from
    one old manifest would give two tables the same generation.
    """

    api: Api
    stores: Stores
    fetch: Fetch
    namespace: str | None = None

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
        pods, (deployments, unreadable), claims, peers = await asyncio.gather(
            self._pods(server),
            self._deployments(namespace, server.metadata.name),
            read_claims(self.api, namespace, mounted_claims(server)),
            self._peers(server),
        )
        return Observed(
            server,
            deployment,
            manifest,
            pods,
            deployments,
            claims,
            service,
            policy,
            unreadable=unreadable,
            peers=peers,
        )

    async def _deployment(self, namespace: str, name: str) -> Manifest | None:
        """The Deployment; live when the store lacks it, which also finds one that is not ours."""
        return self.stores.deployments.get(namespace, name) or await self.api.get(DEPLOYMENT, namespace, name)

    async def _deployments(
        self, namespace: str, server: str
    ) -> tuple[tuple[AdapterDeployment, ...], tuple[Unreadable, ...]]:
        """The AdapterDeployments of this server; one that cannot be read harms no other."""
        found, _ = await self.api.list_all(ADAPTERDEPLOYMENT, namespace)
        mine = [m for m in found if manifests.text(m, "spec", "serverRef", "name") == server]
        read = [_readable(manifest) for manifest in mine]
        good = tuple(one for one in read if isinstance(one, AdapterDeployment))
        return good, tuple(one for one in read if isinstance(one, Unreadable))

    async def _peers(self, server: ModelServer) -> tuple[ModelServer, ...]:
        """The other servers, for one that upgrades by itself and has to know whose turn it is."""
        if not waits_for_turn(server):
            return ()
        found, _ = await self.api.list_all(MODELSERVER, self.namespace)
        others = [m for m in found if manifests.uid_of(m) != server.metadata.uid]
        read = [_peer(manifest) for manifest in others]
        return tuple(peer for peer in read if peer is not None)

    async def _pods(self, server: ModelServer) -> tuple[PodState, ...]:
        pods = self.stores.pods.owned_by(server.metadata.uid)
        mine = [pod for pod in pods if _is_in(pod, server) and is_replica(server, pod)]
        return tuple(await asyncio.gather(*map(self._pod, mine)))

    async def _pod(self, pod: Manifest) -> PodState:
        where = manifests.address(pod)
        state = None if where is None else await self.fetch(where, STATE_PORT, "/state")
        ready_since = manifests.moment(manifests.condition(pod, "Ready"), "lastTransitionTime")
        return PodState(
            name=manifests.name_of(pod),
            uid=manifests.uid_of(pod),
            ready=manifests.is_true(pod, "Ready"),
            terminating=manifests.terminating(pod),
            pod=pod,
            state=state,
            state_at=None if state is not None else ready_since,
        )


def _is_in(pod: Manifest, server: ModelServer) -> bool:
    return manifests.text(pod, "metadata", "namespace") == server.metadata.namespace


def _readable(manifest: Manifest) -> AdapterDeployment | Unreadable:
    try:
        return AdapterDeployment.model_validate(manifest)
    except ValidationError as error:
        return Unreadable(
            name=manifests.name_of(manifest),
            alias=manifests.text(manifest, "spec", "alias"),
            created=manifests.text(manifest, "metadata", "creationTimestamp"),
            message=f"The AdapterDeployment cannot be read: {first_problem(error)}; correct it.",
        )


def _peer(manifest: Manifest) -> ModelServer | None:
    try:
        return ModelServer.model_validate(manifest)
    except ValidationError:  # told on that object
        return None


def first_problem(error: ValidationError) -> str:
    """The first field that does not fit, and why."""
    found = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
