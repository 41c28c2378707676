"""A restarted API server and older CRDs, on a control plane of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.cluster.controlplane import Cluster
from tests.faults.own_clusters import older_crds, restarts
from tests.faults.play import Outcome

pytestmark = [pytest.mark.apiserver, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A control plane that nobody else plays on."""
    async with Cluster(tmp_path_factory.mktemp("own")) as cluster:
        yield cluster
    assert cluster.nodes.faults == []


def _wrong(outcomes: list[Outcome]) -> list[str]:
    return [f"{outcome.scenario}: {wrong}" for outcome in outcomes for wrong in outcome.violations]


async def test_restarts_of_the_api_server_change_nothing_but_the_time(own_cluster: Cluster) -> None:
    assert _wrong(await restarts(own_cluster)) == []


async def test_an_operator_newer_than_its_crds_works_and_comes_to_rest(own_cluster: Cluster) -> None:
    assert _wrong(await older_crds(own_cluster)) == []
