"""Serving pods with the real gateway and agent: a process of the serving image's command beside a stand-in engine."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.engine_stand_in import StandInEngine
from tests.faults.cluster.agents import mounted_manifest
from tests.faults.cluster.nodes import Fate, PlayedPod
from tests.small_artifacts import write_base

API_PORT, AGENT_PORT = 8000, 8001
_PROBE_SECONDS = 0.2


@dataclass(frozen=True)
class Volumes:
    """What the pods mount: the base model, and claims as folders."""

    folder: Path

    @property
    def base(self) -> Path:
        """The base model's folder."""
        return self.folder / "base"

    def claim(self, name: str) -> Path:
        """The folder of a claim."""
        return self.folder / "sources" / "pvc" / name

    def fill(self) -> None:
        """With a base model, and without adapters."""
        write_base(self.base)
        self.claim("adapters").mkdir(parents=True)


def serve(volumes: Volumes) -> Fate:
    """A pod whose probes and manifest are those of a kubelet; a gateway that ends takes the pod with it."""

    async def fate(pod: PlayedPod) -> None:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ft-")))
            engine = StandInEngine(folder / "e.sock", slots=9)
            await engine.start()
            stack.push_async_callback(engine.stop)
            kubelet = asyncio.create_task(_mount(pod, folder))
            stack.callback(kubelet.cancel)
            gateway = await _start(volumes, folder, pod.address)
            stack.push_async_callback(_kill, gateway)
            probes = asyncio.create_task(_probe(pod))
            stack.callback(probes.cancel)
            await pod.end(await gateway.wait(), "the gateway ended")

    return fate


async def _start(volumes: Volumes, folder: Path, address: str) -> Process:
    command = ["-m", "finetune_serving", "gateway", "--manifest", str(folder / "manifest.json")]
    command += ["--uds", str(folder / "e.sock"), "--model", str(volumes.base)]
    command += ["--adapters", str(folder / "adapters"), "--sources", str(volumes.folder / "sources")]
    command += ["--host", address, "--port", str(API_PORT), "--agent-port", str(AGENT_PORT)]
    return await asyncio.create_subprocess_exec(sys.executable, *command, stdout=DEVNULL, stderr=DEVNULL)


async def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _mount(pod: PlayedPod, folder: Path) -> None:
    """The server manifest as a file, which changes as a mounted ConfigMap does."""
    while True:
        document = mounted_manifest(pod)
        if document is not None:
            (folder / "fresh.json").write_text(json.dumps(document))
            (folder / "fresh.json").replace(folder / "manifest.json")
        await pod.history.next()


async def _probe(pod: PlayedPod) -> None:
    """The readiness probe."""
    told, url = None, f"http://{pod.address}:{AGENT_PORT}/readyz"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while True:
            ready = False
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as answer:
                    ready = answer.status == 200
            if ready != told:
                await pod.run(ready)
                told = ready
            await asyncio.sleep(_PROBE_SECONDS)
