"""Cases that users reported of other servers, on a cluster: what is wrong with one adapter is nobody else's outage.

API server, controllers and operator, gateway and agent are the real ones; the engine and the node are played.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from finetune_operator.core.manifests import condition, name_of, text
from tests.faults.cluster.client import Object
from tests.faults.cluster.controlplane import Cluster
from tests.faults.cluster.gateways import API_PORT, Volumes, serve
from tests.faults.cluster.nodes import Cast
from tests.faults.cluster.trainer import stop_politely, succeed
from tests.faults.operators.processes import Operators
from tests.faults.oracles import log_violations
from tests.faults.scenarios.scenario import World
from tests.faults.scenarios.servers import SERVER, adapter
from tests.small_artifacts import publish

pytestmark = [pytest.mark.apiserver, pytest.mark.asyncio(loop_scope="session")]
BASE = "base"
LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Site:
    """A namespace with a server, its operator, and the folders that its pods mount."""

    world: World
    volumes: Volumes
    session: aiohttp.ClientSession

    def folder(self, name: str) -> Path:
        """Where an adapter is published."""
        return self.volumes.claim("adapters") / name

    async def deploy(self, name: str, config: str | None = None, promoted: bool = True, **spec: Any) -> None:
        """Publish an adapter and ask for it under its name."""
        value = 0.25 + len(self.world.history.of("AdapterDeployment")) / 16
        digest = publish(self.folder(name), self.volumes.base, value, config, promoted)
        manifest = adapter(digest, name)
        manifest["spec"] |= {"adapter": {"source": f"pvc://adapters/{name}", "digest": digest}, **spec}
        await self.world.create(manifest)

    async def until(self, name: str, status: str, reason: str) -> str:
        """Wait for a word about an AdapterDeployment; returns the sentence."""
        async with asyncio.timeout(LIMIT_SECONDS):
            await self.world.until("AdapterDeployment", name, "Ready", status, reason)
        return text(condition(self.world.get("AdapterDeployment", name), "Ready"), "message")

    async def says(self, kind: str, name: str, *words: str) -> None:
        """Wait until an object says of itself what holds all these words."""

        def holds() -> bool:
            said = text(condition(self.world.get(kind, name), "Ready"), "message")
            return all(word in said for word in words)

        async with asyncio.timeout(LIMIT_SECONDS):
            await self.world.history.until(holds)

    async def ask(self, model: str) -> int:
        """The status code of the only pod's answer."""
        [pod] = self.world.history.of("Pod")
        url = f"http://{pod['status']['podIP']}:{API_PORT}/v1/completions"
        async with self.session.post(url, json={"model": model, "prompt": "x"}) as answer:
            return answer.status

    async def replace_pod(self) -> None:
        """Delete the only pod and wait until another one is ready and the server says so."""
        [before] = self.world.history.of("Pod")
        await self.world.delete("Pod", name_of(before), gracePeriodSeconds=1)
        async with asyncio.timeout(LIMIT_SECONDS):
            await self.world.history.until(lambda: self._replaced(before))

    def _replaced(self, before: Object) -> bool:
        names = [name_of(pod) for pod in self.world.history.of("Pod")]
        ready = self.world.stands("ModelServer", "shared", "Ready", "True")
        return ready and len(names) == 1 and names != [name_of(before)]


@pytest_asyncio.fixture(loop_scope="session")
async def site(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Site]:
    """A server that answers with its base, in a namespace of its own."""
    namespace = f"case-{uuid.uuid4().hex[:8]}"
    await cluster.make_namespace(namespace)
    volumes = Volumes(tmp_path / "volumes")
    volumes.fill()
    cluster.nodes.play(namespace, Cast({"": (serve(volumes),)}, succeed, stop_politely))
    world = World(cluster.client, namespace, cluster.hub.history(namespace))
    folder = cluster.folder / "plays" / namespace
    async with (
        Operators(cluster.forks, cluster.client, folder, namespace) as operators,
        aiohttp.ClientSession() as session,
    ):
        await operators.start()
        await world.create(SERVER)
        await world.until("ModelServer", "shared", "Ready", "True")
        yield Site(world, volumes, session)
        assert log_violations(operators.messages()) == []
    cluster.nodes.leave(namespace)


ODD_CONFIGS = {
    "list": json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": ["q_proj"]}),
    "nested": "[" * 500_000,
}


async def test_a_malformed_config_is_refused_and_ends_no_gateway(site: Site) -> None:
    await site.deploy("a")
    await site.until("a", "True", "Serving")
    [pod] = site.world.history.of("Pod")
    for name, config in ODD_CONFIGS.items():
        await site.deploy(name, config)
        assert "adapter_config.json" in await site.until(name, "False", "InvalidArtifact")
    assert [await site.ask(model) for model in ("a", BASE)] == [200, 200]
    assert [name_of(found) for found in site.world.history.of("Pod")] == [name_of(pod)]
    assert site.world.stands("ModelServer", "shared", "Ready", "True")
    assert site.world.stands("AdapterDeployment", "a", "Ready", "True")


@pytest.mark.slow
async def test_a_new_pod_serves_whatever_can_be_had_and_tells_the_truth_of_the_rest(site: Site) -> None:
    for name in ("a", "moved", "removed"):
        await site.deploy(name)
    await site.deploy("unpromoted", promoted=False, allowUnpromoted=True)
    for name in ("a", "moved", "removed", "unpromoted"):
        await site.until(name, "True", "Serving")

    await site.world.change("AdapterDeployment", "unpromoted", allowUnpromoted=False)
    await site.says("AdapterDeployment", "unpromoted", "replicas that start from now on refuse it")
    site.folder("moved").rename(site.folder("away"))
    shutil.rmtree(site.folder("removed"))
    assert [await site.ask(model) for model in ("moved", "removed", "unpromoted")] == [200, 200, 200]

    await site.replace_pod()
    reasons = {"moved": "ArtifactMissing", "removed": "ArtifactMissing", "unpromoted": "Unpromoted"}
    await site.says("ModelServer", "shared", *(f"{name} on" for name in reasons))
    for name, reason in reasons.items():
        assert "keeps answering" not in await site.until(name, "False", reason)
        assert await site.ask(name) == 503
    assert [await site.ask(model) for model in ("a", BASE)] == [200, 200]
    await site.until("a", "True", "Serving")

    site.folder("away").rename(site.folder("moved"))
    await site.until("moved", "True", "Serving")
    assert await site.ask("moved") == 200
