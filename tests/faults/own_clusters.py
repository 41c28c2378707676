"""What cannot be done beside other plays: the API server restarts, the CRDs are older than the operator."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from tests.faults.attacks import CALM
from tests.faults.cluster.client import Object
from tests.faults.cluster.controlplane import Cluster
from tests.faults.play import Outcome, Player
from tests.faults.trials import SCENARIOS

PLAYED = ("training crashes once", "a run is suspended and resumed", "an adapter rolls and rolls back")
NEWER = {
    "finetunejobs": "completionTime",
    "modelservers": "adaptersServing",
    "adapterdeployments": "endpoint",
}
"""A field of each kind's status that an older CRD does not have."""


async def restarts(cluster: Cluster) -> list[Outcome]:
    """The API server is restarted twice while the scenarios are played."""
    player = Player(cluster, quiet=1)
    undisturbed = await _play(player, "undisturbed", "nothing")
    plays = asyncio.create_task(_play(player, "restarted", "the API server restarts twice", undisturbed))
    for seconds in (1.5, 3.0):
        await asyncio.sleep(seconds)
        await cluster.restart_apiserver()
    return await plays


async def older_crds(cluster: Cluster) -> list[Outcome]:
    """The API server drops a field of each status, as with CRDs older than the operator."""
    found, _ = await cluster.client.list("CustomResourceDefinition", None)
    for crd in found:
        await cluster.client.replace(_without(crd, NEWER[crd["spec"]["names"]["plural"]]))
    return await _play(Player(cluster, quiet=5), "older", "the CRDs are older than the operator")


async def _play(
    player: Player, prefix: str, title: str, like: Sequence[Outcome] | None = None
) -> list[Outcome]:
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in PLAYED]
    ends = [None] * len(scenarios) if like is None else [outcome.end for outcome in like]
    plays = [
        player.play(scenario, replace(CALM, name=title), f"{prefix}-{number}", end)
        for number, (scenario, end) in enumerate(zip(scenarios, ends, strict=True))
    ]
    return list(await asyncio.gather(*plays))


def _without(crd: Object, field: str) -> Object:
    for version in crd["spec"]["versions"]:
        del version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"][field]
    return crd
