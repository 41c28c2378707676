"""Puts the operator together and runs it."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetune_operator import handlers
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.generate.crd import object_schema
from finetune_operator.generate.kinds import KINDS
from finetune_operator.runtime.cache.arrivals import Arrivals
from finetune_operator.runtime.cache.kueue import WorkloadReflector, job_of
from finetune_operator.runtime.cache.listing import Listing
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.cache.reflector import Reflector, Watched
from finetune_operator.runtime.cache.store import Store, Stores
from finetune_operator.runtime.client import Api
from finetune_operator.runtime.configuration import Configuration, load_configuration
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.kube import KubernetesApi, always
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.observers.controllers import controllers
from finetune_operator.runtime.observers.lookups import Lookups
from finetune_operator.runtime.pods import Fetch, PodReader, Poller
from finetune_operator.runtime.process.crds import require_crds, tell_missing_fields
from finetune_operator.runtime.process.lease import Elector, LeaseName
from finetune_operator.runtime.process.lifecycle import EndedError, Process, ProcessParts
from finetune_operator.runtime.process.tasks import Supervisor
from finetune_operator.runtime.queue import WorkQueue
from finetune_operator.runtime.reconciler import Reconciler
from finetune_operator.runtime.resources import (
    BUDGET,
    CLAIM,
    CONFIGMAP,
    DEPLOYMENT,
    JOB,
    MANAGED_BY,
    NETWORKPOLICY,
    OF_SERVERS,
    POD,
    REVISION,
    SERVICE,
    Key,
    owner_key,
)

# A list of a thousand pods makes a million objects and no garbage: Python's own thresholds would go through
# them hundreds of times.
GARBAGE_THRESHOLDS = (20_000, 20, 50)


@dataclass(frozen=True)
class Options:
    """How one process runs; `kubeconfig` None uses the pod's service account, `namespace` None serves all,
    `lease` (namespace and name) None runs without a rival.
    """

    kubeconfig: Path | None
    namespace: str | None
    host: str
    port: int
    lease: tuple[str, str] | None = None


async def run(options: Options, settings: Settings) -> None:
    """Run until told to stop. Raises StartError, or EndedError when a restart is due."""

    def configuration() -> Configuration:
        return load_configuration(options.kubeconfig)

    gc.freeze()  # what was imported stays
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    metrics, supervisor, reader = Metrics(), Supervisor(), PodReader()
    unfenced = KubernetesApi(configuration(), metrics.requested)
    elector = _elector(unfenced, options, supervisor)
    fence = always if elector is None else elector.fence
    api = KubernetesApi(configuration(), metrics.requested, fence)
    try:
        await require_crds(api)
        await tell_missing_fields(api, {kind.name: object_schema(kind) for kind in KINDS}, metrics)
        parts = assemble(api, reader, settings, metrics, options.namespace, elector)
        process = Process(parts, supervisor, options.host, options.port)
        await handlers.serve(process, configuration, options.namespace)
    finally:
        for connection in (reader, api, unfenced):
            await connection.close()
    if process.failure is not None:
        raise EndedError(process.failure)


def assemble(
    api: Api,
    fetch: Fetch,
    settings: Settings,
    metrics: Metrics,
    namespace: str | None,
    elector: Elector | None = None,
) -> ProcessParts:
    """Connect the parts: watches feed the caches, observers read them, changes in them queue owners."""
    clock = asyncio.get_running_loop().time
    queue: WorkQueue[Key] = WorkQueue(clock)
    owners, stores, recorder = Owners(Arrivals(clock)), Stores(), Recorder(api, _now)
    poller = Poller(fetch, queue.add, settings.progress_seconds, clock, _now)
    table = controllers(api, owners, stores, poller, Lookups(api, clock), settings, _now)
    reconciler = Reconciler(api, owners, table, recorder, metrics, queue, clock)
    changes = Changes(reconciler.enqueue, poller, stores.jobs)
    return ProcessParts(
        metrics=metrics,
        owners=owners,
        listing=Listing(api, owners, namespace, reconciler.enqueue),
        reflectors=_reflectors(api, namespace, stores, changes, clock, metrics),
        poller=poller,
        recorder=recorder,
        reconciler=reconciler,
        elector=elector,
    )


@dataclass(frozen=True)
class Changes:
    """A change of what is watched queues the object of ours that it concerns."""

    enqueue: Callable[[Key], None]
    poller: Poller
    jobs: Store

    def of_child(self, manifest: Manifest, gone: bool) -> None:  # noqa: ARG002
        """Queue the owner that the labels name."""
        key = owner_key(manifest)
        if key is not None:
            self.enqueue(key)

    def of_pod(self, manifest: Manifest, gone: bool) -> None:
        """A pod is asked for what it knows, too."""
        self.poller.look(manifest, gone)
        self.of_child(manifest, gone)

    def of_workload(self, manifest: Manifest, gone: bool) -> None:
        """Kueue's Workloads carry no label of ours: the Job that one was made of tells the owner."""
        job = job_of(manifest, self.jobs)
        if job is not None:
            self.of_child(job, gone)


def _reflectors(
    api: Api,
    namespace: str | None,
    stores: Stores,
    changes: Changes,
    clock: Callable[[], float],
    metrics: Metrics,
) -> list[Reflector]:
    pods = Watched(POD, namespace, MANAGED_BY, stores.pods)
    return [
        *(Reflector(api, w, changes.of_child, clock, metrics) for w in _children(stores, namespace)),
        Reflector(api, pods, changes.of_pod, clock, metrics),
        WorkloadReflector(api, namespace, stores.workloads, changes.of_workload, clock, metrics),
    ]


def _children(stores: Stores, namespace: str | None) -> list[Watched]:
    """Ours but for pods, by label. Of ConfigMaps and Services only those of servers are read."""
    found = (
        (JOB, MANAGED_BY, stores.jobs),
        (CLAIM, MANAGED_BY, stores.claims),
        (DEPLOYMENT, OF_SERVERS, stores.deployments),
        (SERVICE, OF_SERVERS, stores.services),
        (NETWORKPOLICY, OF_SERVERS, stores.policies),
        (BUDGET, OF_SERVERS, stores.budgets),
        (REVISION, OF_SERVERS, stores.revisions),
        (CONFIGMAP, OF_SERVERS, stores.configmaps),
    )
    return [Watched(resource, namespace, selector, store) for resource, selector, store in found]


def _elector(api: Api, options: Options, supervisor: Supervisor) -> Elector | None:
    if options.lease is None:
        return None
    namespace, name = options.lease
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    return Elector(api, LeaseName(namespace, name, identity), _boot_time, _now, supervisor.fail)


def _boot_time() -> float:
    """Seconds that go on while the machine sleeps, which the Lease of a sleeper does too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _now() -> datetime:
    return datetime.now(UTC)
