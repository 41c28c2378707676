"""The real operator process under SIGKILL: kopf, probes, drain and all."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dev.cluster.controlplane import ApiServer, free_ports
from finetune_operator.runtime.kube import KubernetesApi
from tests.faults.cluster import essence, finished, make_namespace, start_run
from tests.faults.kubelet import SUMMARIES, Kubelet

pytestmark = pytest.mark.apiserver
ROOT = Path(__file__).parents[2]


class Operator:
    """`python -m finetune_operator run` against the control plane."""

    def __init__(self, server: ApiServer, folder: Path, namespace: str):
        self._settings = folder / "settings.json"
        self._settings.write_text('{"images": {"trainer": "trainer:1", "serving": "serving:1"}}')
        self._kubeconfig = server.kubeconfig
        self._namespace = namespace
        self.port = free_ports(1)[0]
        self.lines: list[dict[str, Any]] = []
        self.process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]
        self._started = asyncio.Event()

    async def start(self) -> None:
        """Start and wait until it works."""
        environment = {"FINETUNE_SETTINGS": str(self._settings), "PYTHONPATH": str(ROOT / "operator")}
        arguments = ["--kubeconfig", str(self._kubeconfig), "--namespace", self._namespace]
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "finetune_operator", "run", *arguments),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            env={**os.environ, **environment},
            stderr=asyncio.subprocess.PIPE,
        )
        self._started.clear()
        self._reader = asyncio.create_task(self._read())
        waiter = asyncio.create_task(self._started.wait())
        await asyncio.wait([waiter, self._reader], return_when=asyncio.FIRST_COMPLETED)
        assert self._started.is_set(), self.lines[-3:]

    async def _read(self) -> None:
        """Read the log to its end, so that a full pipe never stops the operator."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"] == "started":
                self._started.set()

    async def end(self, number: int) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        await self._reader
        return await self.process.wait()

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the probe and metrics endpoint."""
        url = f"http://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def operator(control_plane: ApiServer, tmp_path: Path, request: Any) -> Any:
    """Not started yet; killed at the end."""
    one = Operator(control_plane, tmp_path, request.node.name.replace("_", "-")[:40])
    yield one
    if one.process.returncode is None:
        await one.end(signal.SIGKILL)


async def test_kills_at_random_moments_change_nothing_but_the_time(
    admin: KubernetesApi, kubelet: Kubelet, operator: Operator
) -> None:
    namespace = operator._namespace
    await make_namespace(admin, namespace)
    await start_run(admin, namespace)
    end = asyncio.create_task(finished(admin, namespace))
    moments = random.Random(7)
    for _ in range(3):
        await operator.start()
        await asyncio.wait([end], timeout=moments.uniform(0.0, 0.4))
        assert await operator.end(signal.SIGKILL) == -signal.SIGKILL
    await operator.start()
    await asyncio.wait([end], timeout=60)
    assert end.done(), operator.lines[-5:]
    found = essence(end.result())
    assert found["conditions"]["Succeeded"][0] == "True", found
    assert found["marks"] == (None, None), "kopf left an annotation or a finalizer"
    assert {stage: kubelet.started[namespace, stage] for stage in SUMMARIES} == dict.fromkeys(SUMMARIES, 1)


async def test_it_answers_probes_drains_on_sigterm_and_stays_small(
    admin: KubernetesApi, operator: Operator
) -> None:
    await make_namespace(admin, operator._namespace)
    await operator.start()
    assert await operator.get("/healthz") == (200, "ok")
    assert await operator.get("/readyz") == (200, "ok")
    _, metrics = await operator.get("/metrics")
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    mebibytes = float(values["process_resident_memory_bytes"]) / 2**20
    print(f"RSS {mebibytes:.0f} MiB")
    assert mebibytes < 250
    assert await operator.end(signal.SIGTERM) == 0, operator.lines[-3:]
    assert "stopped" in [line["message"] for line in operator.lines]
    own = [line for line in operator.lines if line["logger"].startswith("finetune_operator")]
    assert [line for line in own if line["level"] in ("ERROR", "CRITICAL")] == []
