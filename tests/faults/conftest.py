"""One control plane and one campaign for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.campaign import Attacked, Campaign, Crashes, Undisturbed
from tests.faults.cluster.controlplane import Cluster
from tests.faults.play import Outcome, Player
from tests.faults.report import tables

PLAYED = pytest.StashKey[list[Outcome]]()
QUIET_SECONDS = 10.0
QUIET_SECONDS_ATTACKED = 1.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """etcd, kube-apiserver, kube-controller-manager and played nodes."""
    async with Cluster(tmp_path_factory.mktemp("faults")) as one:
        yield one
    assert one.nodes.faults == [], "the played nodes failed, which must not pass for a fault of the operator"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def campaign(cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Campaign]:
    """All trials of this session, played side by side while the first tests wait for theirs."""
    one = Campaign(Player(cluster, QUIET_SECONDS), Player(cluster, QUIET_SECONDS_ATTACKED))
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    trials = [p.params.get("trial") for p in parameters if p is not None]
    one.schedule(trial for trial in trials if isinstance(trial, Undisturbed | Attacked | Crashes))
    yield one
    request.config.stash[PLAYED] = one.played
    await one.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was tried, scenario by scenario."""
    played = terminalreporter.config.stash.get(PLAYED, [])
    if played:
        terminalreporter.write_sep("=", "faults tried on the operator")
        terminalreporter.write_line(tables(played))
