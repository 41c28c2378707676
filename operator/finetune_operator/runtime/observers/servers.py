"""Observes a ModelServer: its children, its pods and what their agents say, and who wants to be served."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core import manifests
from finetune_operator.core.actions import Manifest
from finetune_operator.render.names import manifest_name, server_name
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.cache.store import Store, Stores
from finetune_operator.runtime.client import Api, Object
from finetune_operator.runtime.observers.lookups import Lookups
from finetune_operator.runtime.pods import Poller
from finetune_operator.runtime.resources import (
    BUDGET,
    CONFIGMAP,
    DEPLOYMENT,
    NETWORKPOLICY,
    REVISION,
    SERVICE,
    Key,
    Resource,
)
from finetune_operator.serving.observed import Observed, PodState, Unreadable, is_replica
from finetune_operator.serving.pod import mounted_claims
from finetune_operator.serving.template import waits_for_turn


@dataclass(frozen=True)
class ServerObserver:
    """Caches. The server manifest is written with the resourceVersion that it was decided from, since
    two decisions on one old manifest would give two tables the same generation.
    """

    api: Api
    owners: Owners
    stores: Stores
    lookups: Lookups
    poller: Poller

    async def __call__(self, owner: Object) -> Observed:
        """Read everything that the plan for this server may look at; raises ApiError."""
        server = ModelServer.model_validate(owner)
        namespace, name = server.metadata.namespace, server_name(server)
        key = Key("ModelServer", namespace, server.metadata.name)
        read = [_readable(one) for one in self.owners.naming(key, "AdapterDeployment")]
        runs = [_run(one) for one in self.owners.naming(key, "FineTuneJob")]
        stores, manifest = self.stores, manifest_name(server)
        deployment, service, policy, budget, configmap = await asyncio.gather(
            self._child(stores.deployments, DEPLOYMENT, namespace, name),
            self._child(stores.services, SERVICE, namespace, name),
            self._child(stores.policies, NETWORKPOLICY, namespace, name),
            self._child(stores.budgets, BUDGET, namespace, name),
            self._child(stores.configmaps, CONFIGMAP, namespace, manifest),
        )
        return Observed(
            server=server,
            deployment=deployment,
            manifest=configmap,
            pods=tuple(map(self._state, self._pods(server))),
            deployments=tuple(one for one in read if isinstance(one, AdapterDeployment)),
            claims=await self.lookups.claims(namespace, mounted_claims(server)),
            service=service,
            policy=policy,
            budget=budget,
            revision=await self._revision(server),
            revisions=tuple(stores.revisions.owned_by(namespace, server.metadata.uid)),
            unreadable=tuple(one for one in read if isinstance(one, Unreadable)),
            peers=self._peers(server),
            runs=tuple(one for one in runs if one is not None),
        )

    def forget(self, key: Key) -> None:
        """Nothing is kept of a server."""

    async def _child(self, store: Store, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """The object of a child's name; live where the store lacks it, which finds one that is not ours."""
        return store.get(namespace, name) or await self.api.get(resource, namespace, name)

    async def _revision(self, server: ModelServer) -> Manifest | None:
        """The ControllerRevision that the status names."""
        record, namespace = server.status.template, server.metadata.namespace
        if record is None:
            return None
        return await self._child(self.stores.revisions, REVISION, namespace, record.controller_revision)

    def _peers(self, server: ModelServer) -> tuple[ModelServer, ...]:
        """The other servers, for one that upgrades by itself and has to know whose turn it is."""
        if not waits_for_turn(server):
            return ()
        found = (self.owners.get(key) for key in self.owners.known() if key.kind == "ModelServer")
        others = (one for one in found if one is not None and manifests.uid_of(one) != server.metadata.uid)
        read = map(_peer, others)
        return tuple(peer for peer in read if peer is not None)

    def _pods(self, server: ModelServer) -> list[Manifest]:
        """The pods of the server's ReplicaSets. Those are not watched, but their names say whose they are."""
        kept = self.stores.pods.owned_by(server.metadata.namespace, server.metadata.uid)
        return [pod for pod in kept if is_replica(server, pod)]

    def _state(self, pod: Manifest) -> PodState:
        answer = self.poller.answer(pod)
        return PodState(
            name=manifests.name_of(pod),
            uid=manifests.uid_of(pod),
            ready=manifests.is_true(pod, "Ready"),
            terminating=manifests.terminating(pod),
            pod=pod,
            state=answer.document,
            state_at=answer.at,
        )


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


def _run(manifest: Manifest) -> FineTuneJob | None:
    try:
        return FineTuneJob.model_validate(manifest)
    except ValidationError:  # told on that object
        return None


def _peer(manifest: Manifest) -> ModelServer | None:
    try:
        return ModelServer.model_validate(manifest)
    except ValidationError:  # told on that object
        return None


def first_problem(error: ValidationError) -> str:
    """The first field that does not fit, and why."""
    found = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
