"""The processes under test: started with what a cluster gives them, measured from outside."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.operator.control_plane import OPERATOR, PLAIN, ROOT, ControlPlane
from benchmarks.operator.objects import SETTINGS
from dev.cluster.controlplane import free_ports

START_SECONDS = 120
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Running:
    """A process that has answered its probe."""

    process: asyncio.subprocess.Process
    port: int
    log: Path
    started: float

    async def metrics(self) -> dict[str, float]:
        """The operator's own metrics, summed over their labels."""
        totals: dict[str, float] = {}
        url = f"http://127.0.0.1:{self.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        return totals

    def resident_mib(self) -> float:
        """The memory that the process holds now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)

    def processor_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def operator(plane: ControlPlane) -> AsyncIterator[Running]:
    """The operator with its shipped command line; stopped by SIGTERM."""
    settings = plane.folder / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    port = free_ports(1)[0]
    arguments = ["run", "--kubeconfig", str(plane.kubeconfig(OPERATOR)), "--host", "127.0.0.1"]
    command = ["-m", "finetune_operator", *arguments, "--port", str(port)]
    async with _started(plane, command, port, {"FINETUNE_SETTINGS": str(settings)}) as running:
        yield running


@asynccontextmanager
async def plain_handler(plane: ControlPlane) -> AsyncIterator[Running]:
    """The plain kopf handler."""
    port = free_ports(1)[0]
    command = ["-m", "benchmarks.operator.plain_handler", str(port)]
    async with _started(plane, command, port, {"KUBECONFIG": str(plane.kubeconfig(PLAIN))}) as running:
        yield running


@asynccontextmanager
async def _started(
    plane: ControlPlane, command: list[str], port: int, environment: Mapping[str, str]
) -> AsyncIterator[Running]:
    """Runs the command until the block ends; entered as soon as the process listens on its port."""
    log = plane.folder / f"{port}.log"
    paths = {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
    started = time.monotonic()
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, env={**os.environ, **paths, **environment}, stdout=out, stderr=out
        )
    running = Running(process, port, log, started)
    try:
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(_guard(running))
            await _listening(port)
            yield running
            guard.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _guard(running: Running) -> None:
    """Fail as soon as the process ends, with the end of its log."""
    code = await running.process.wait()
    raise RuntimeError(f"{running.log.name} ended with exit code {code}: {running.log.read_text()[-2000:]}")


async def _listening(port: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(LOOK_SECONDS)
            else:
                writer.close()
                return
