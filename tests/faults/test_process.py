"""The operator's process as a kubelet sees it: probes, metrics, SIGTERM."""

from __future__ import annotations

import signal

import aiohttp
import pytest

from tests.faults.cluster.controlplane import Cluster
from tests.faults.operators.processes import Operators
from tests.faults.oracles import log_violations

pytestmark = [pytest.mark.apiserver, pytest.mark.asyncio(loop_scope="session")]


async def _get(port: int, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_it_answers_probes_drains_on_sigterm_and_stays_small(cluster: Cluster) -> None:
    await cluster.make_namespace("process")
    folder = cluster.folder / "plays" / "process"
    async with Operators(cluster.forks, cluster.client, folder, "process") as operators:
        operator = await operators.start()
        port = await operator.port()
        assert await _get(port, "/healthz") == (200, "ok")
        assert await _get(port, "/readyz") == (200, "ok")
        _, metrics = await _get(port, "/metrics")
        values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        assert float(values["process_resident_memory_bytes"]) < 250 * 2**20
        operator.send(signal.SIGTERM)
        assert await operator.end() == 0
        assert "stopped" in [line["message"] for line in operators.messages()]
        assert log_violations(operators.messages()) == []
