"""Puts the operator together and runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_operator import handlers
from finetune_operator.contracts.settings import Settings
from finetune_operator.runtime.client import Api
from finetune_operator.runtime.controllers import controllers
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.fetch import PodReader
from finetune_operator.runtime.kube import KubernetesApi, load_configuration
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.process.lifecycle import EndedError, Parts, Process, StartError, waker
from finetune_operator.runtime.reconciler import Reconciler
from finetune_operator.runtime.cache.reflector import Reflector
from finetune_operator.runtime.resources import (
    DEPLOYMENT,
    GROUP,
    JOB,
    MANAGED_BY,
    OURS,
    POD,
    VERSION,
    Resource,
)
from finetune_operator.runtime.cache.store import Store
from finetune_operator.runtime.stores import Stores


@dataclass(frozen=True)
class Options:
    """How one process runs; `kubeconfig` None uses the pod's service account, `namespace` None serves all."""

    kubeconfig: Path | None
    namespace: str | None
    host: str
    port: int


async def run(options: Options, settings: Settings) -> None:
    """Run until told to stop. Raises StartError, or EndedError when a restart is due."""

    def configuration() -> Any:
        return load_configuration(options.kubeconfig)

    metrics = Metrics()
    api = KubernetesApi(configuration(), metrics.requested)
    await require_crds(api)
    parts = assemble(api, settings, metrics, options.namespace)
    process = Process(parts, options.host, options.port)
    try:
        await handlers.serve(process, configuration, options.namespace)
    finally:
        await parts.reader.close()
        api.close()
    if process.failure is not None:
        raise EndedError(process.failure)


async def require_crds(api: Api) -> None:
    """kopf idles for ever when a CRD is missing at its start, so look before."""
    known = await api.kinds(f"{GROUP}/{VERSION}")
    missing = [resource.plural for resource in OURS if resource.plural not in known]
    if missing:
        raise StartError(
            f"The API server does not know {', '.join(missing)} of {GROUP}/{VERSION}. Install the CRDs "
            "first: `kubectl apply --server-side -f crds/`, or the Helm chart with `crds.enabled=true`."
        )


def assemble(api: KubernetesApi, settings: Settings, metrics: Metrics, namespace: str | None) -> Parts:
    """Connect the parts: stores feed the observers, changes in the stores wake the reconciler."""
    loop, reader = asyncio.get_running_loop(), PodReader()
    stores = Stores(jobs=Store(), pods=Store(), deployments=Store())
    table = controllers(api, stores, reader, settings, loop.time)
    recorder = Recorder(api, _now)
    reconciler = Reconciler(api, table, settings, recorder, metrics, loop.time, _now)
    watched = ((JOB, stores.jobs), (POD, stores.pods), (DEPLOYMENT, stores.deployments))
    reflectors = [_reflector(api, r, s, namespace, reconciler, loop.time, metrics) for r, s in watched]
    return Parts(api, reader, metrics, reconciler, reflectors)


def _reflector(
    api: Api,
    resource: Resource,
    store: Store,
    namespace: str | None,
    reconciler: Reconciler,
    clock: Callable[[], float],
    metrics: Metrics,
) -> Reflector:
    return Reflector(api, resource, namespace, MANAGED_BY, store, waker(reconciler), clock, metrics)


def _now() -> datetime:
    return datetime.now(UTC)
