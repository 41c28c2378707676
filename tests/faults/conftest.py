"""A real etcd and kube-apiserver; Job controller and kubelet are played by kubelet.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster import binaries
from dev.cluster.controlplane import ApiServer
from finetune_operator.core.manifests import is_true
from finetune_operator.runtime.kube import KubernetesApi, load_configuration
from finetune_operator.runtime.resources import Resource
from tests.faults.kubelet import Kubelet

CRDS = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Both processes, with our CRDs served."""
    folder = tmp_path_factory.mktemp("faults")
    with ApiServer(folder, binaries.ensure(["kube-apiserver"])) as server:
        asyncio.run(_install_crds(server))
        yield server


@pytest.fixture
def configuration(control_plane: ApiServer) -> Any:
    """The administrator's client configuration."""
    return load_configuration(control_plane.kubeconfig)


@pytest.fixture
async def admin(configuration: Any) -> AsyncIterator[KubernetesApi]:
    """The test's own connection."""
    api = KubernetesApi(configuration, lambda verb, status: None)
    yield api
    api.close()


@pytest.fixture
async def kubelet(admin: KubernetesApi) -> AsyncIterator[Kubelet]:
    """Runs every Job that appears."""
    player = Kubelet(admin)
    task = asyncio.create_task(player.run())
    yield player
    if task.done():
        task.result()  # it only ends by a fault of its own, which must not pass for one of the operator
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _install_crds(server: ApiServer) -> None:
    """Create them and watch until the server says that it serves each."""
    api = KubernetesApi(load_configuration(server.kubeconfig), lambda verb, status: None)
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        await api.create(CRDS, None, yaml.safe_load(file.read_text()))  # type: ignore[arg-type]
    found, version = await api.list_all(CRDS, None)
    waiting = {crd["metadata"]["name"] for crd in found if not is_true(crd, "Established")}
    async with asyncio.timeout(30), aclosing(api.watch(CRDS, None, None, version)) as events:
        while waiting:
            event = await anext(events)
            if event["type"] != "BOOKMARK" and is_true(event["object"], "Established"):
                waiting.discard(event["object"]["metadata"]["name"])
    api.close()
