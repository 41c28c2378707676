"""A HorizontalPodAutoscaler of the real controller scales a ModelServer, and the operator follows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.core.manifests import mapping
from tests.faults.cluster.client import Object
from tests.faults.cluster.controlplane import Cluster
from tests.faults.cluster.metrics import Load, served
from tests.faults.cluster.nodes import Cast
from tests.faults.cluster.trainer import stop_politely, succeed
from tests.faults.operators.processes import Operators
from tests.faults.oracles import log_violations
from tests.faults.scenarios.scenario import World
from tests.faults.scenarios.servers import SERVER, SERVES

pytestmark = [pytest.mark.apiserver, pytest.mark.asyncio(loop_scope="session")]
LIMIT_SECONDS = 90.0
EXAMPLE = Path(__file__).parents[2] / "examples" / "autoscaling" / "hpa.yaml"


def autoscaler() -> Object:
    """The example's, for the server of the scenarios, that does not wait before it scales down."""
    manifest: Object = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["scaleTargetRef"]["name"] = SERVER["metadata"]["name"]
    manifest["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 0
    return manifest


async def test_replicas_follow_the_requests_in_flight_up_and_down(cluster: Cluster) -> None:
    namespace, scaler = "autoscaling", autoscaler()
    await cluster.make_namespace(namespace)
    history = cluster.hub.history(namespace)
    cluster.nodes.play(namespace, Cast(SERVES, succeed, stop_politely))
    world = World(cluster.client, namespace, history)
    load = Load(history, namespace, scaler["spec"]["metrics"][0]["pods"]["metric"]["name"])
    folder = cluster.folder / "plays" / namespace
    async with (
        Operators(cluster.forks, cluster.client, folder, namespace) as operators,
        served(load, cluster.client, cluster.pki, namespace),
    ):
        await operators.start()
        await world.create(SERVER)
        await answering(world, 1)
        await world.create(scaler)
        load.total = 3 * 24
        await answering(world, 3)
        load.total = 1
        await answering(world, 1)
        assert log_violations(operators.messages()) == []
    cluster.nodes.leave(namespace)


async def answering(world: World, replicas: int) -> None:
    """Wait until the server asks for so many replicas, has them, and each of them answers."""

    def holds() -> bool:
        found: Any = world.get("ModelServer", "shared")
        asked = mapping(found, "spec").get("replicas", 1)
        status = mapping(found, "status")
        told = (status.get("replicas"), status.get("readyReplicas"))
        return asked == replicas and told == (replicas, replicas) and len(world.history.of("Pod")) == replicas

    async with asyncio.timeout(LIMIT_SECONDS):
        await world.history.until(holds)
