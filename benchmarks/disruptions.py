"""Requests that fail while versions roll and pods go, with the official client and an engine stand-in.

    python -m benchmarks.disruptions [--rolls 100] [--deletions 20] [--kills 10]

Two replicas (real gateway processes, each with a stand-in engine in a process of its own) behind a forwarder
that does what a Service does: each new connection goes to a replica that is ready, and stays there. A roll is
the operator's three manifests. A deletion does what a cluster does at once: the kubelet waits for
`propagationSeconds` (5, the default) and then sends SIGTERM, while the Service goes on sending connections to
the replica for a time of its own, up to 4 s; then a new replica starts. A kill ends an engine by SIGKILL; its
replica leaves the Service two seconds later, as by its probe, and only streams that had begun may be lost.
Sixteen clients ask without a pause, half of them as streams, and never retry.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import uvloop

from benchmarks.record import write
from tests.engine_stand_in import StandInEngine
from tests.small_artifacts import publish, write_base

CLIENTS = 16
_PROBE_SECONDS = 2.0
_PROPAGATION_SECONDS = 5.0
_SLOWEST_SERVICE_SECONDS = 4.0
_ASK: Any = [{"role": "user", "content": "What do you say?"}]


@dataclass
class Replica:
    """A pod: its folder, its processes, the manifest it has and the port of its API."""

    folder: Path
    port: int = 0
    agent_port: int = 0
    processes: list[Process] = field(default_factory=list)

    async def start(self, root: Path, peers: str) -> None:
        """Engine and gateway; returns when the replica is ready."""
        self.port, self.agent_port = _free_port(), _free_port()
        command = ["-m", "finetune_serving", "gateway", "--manifest", str(self.folder / "manifest.json")]
        command += ["--uds", str(self.folder / "e.sock"), "--model", str(root / "base"), "--peers", peers]
        command += ["--adapters", str(self.folder / "adapters"), "--sources", str(root / "sources")]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--agent-port", str(self.agent_port)]
        quiet = asyncio.subprocess.DEVNULL
        gateway = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=quiet)
        self.processes = [gateway, await self.engine()]
        await self.until(_ready)

    async def engine(self) -> Process:
        """A new process of the engine."""
        command = ["-m", "benchmarks.disruptions", "--engine", str(self.folder / "e.sock")]
        return await asyncio.create_subprocess_exec(sys.executable, *command)

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Ask /state until it meets the condition, as the operator does."""
        async with httpx.AsyncClient(timeout=10) as client, asyncio.timeout(300):
            while True:
                with suppress(httpx.TransportError):
                    if condition((await client.get(f"http://127.0.0.1:{self.agent_port}/state")).json()):
                        return
                await asyncio.sleep(0.05)

    async def deleted(self) -> None:
        """What the kubelet does: the preStop hook of the gateway waits, then the containers end."""
        await asyncio.sleep(_PROPAGATION_SECONDS)
        await self.end()

    async def end(self) -> None:
        """SIGTERM to the gateway; when it has drained, the engine ends."""
        gateway, engine = self.processes
        gateway.terminate()
        await gateway.wait()
        engine.kill()
        await engine.wait()


@dataclass
class Service:
    """Forwards each new connection to one of the replicas that are listed as ready."""

    ready: list[Replica] = field(default_factory=list)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection."""
        there, back = await asyncio.open_connection("127.0.0.1", random.choice(self.ready).port)
        await asyncio.gather(_copy(reader, back), _copy(there, writer), return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@dataclass
class Load:
    """Clients that ask until they are stopped, and what came of it."""

    url: str
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """All clients."""
        await asyncio.gather(*(self._client(stream=number % 2 == 0) for number in range(CLIENTS)))

    async def _client(self, *, stream: bool) -> None:
        async with openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
            while not self.stop.is_set():
                try:
                    self.answers[await _ask(client, stream=stream)] += 1
                except openai.OpenAIError as error:
                    self.failures.append(repr(error))


async def _ask(client: openai.AsyncOpenAI, *, stream: bool) -> str:
    if not stream:
        return (await client.chat.completions.create(model="reviews", messages=_ASK)).model
    events = await client.chat.completions.create(model="reviews", messages=_ASK, stream=True)
    return [event.model async for event in events][-1]


async def measure(root: Path, rolls: int, deletions: int, kills: int) -> dict[str, Any]:
    """Failed requests of each scenario."""
    write_base(root / "base")
    one, two = _adapter(root, "one", 0.5), _adapter(root, "two", 0.25)
    service = Service()
    server = await asyncio.start_server(service.connected, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    replicas = [Replica(root / name) for name in ("a", "b")]
    for replica in replicas:
        replica.folder.mkdir()
        _manifest(replica, 1, [one], one)
        await replica.start(root, url)
        service.ready.append(replica)
    try:
        found = {"rolls and rolls back": await _under_load(url, _rolls(replicas, one, two, rolls))}
        found["pod deletions"] = await _under_load(url, _deletions(service, replicas, root, url, deletions))
        found["engine kills"] = await _under_load(url, _kills(service, replicas, kills))
    finally:
        await asyncio.gather(*(replica.end() for replica in replicas))
    return found


async def _under_load(url: str, disrupted: Coroutine[Any, Any, int]) -> dict[str, Any]:
    load = Load(f"{url}/v1")
    clients = asyncio.create_task(load.run())
    count = await disrupted
    load.stop.set()
    await clients
    print(f"{count} disruptions, {load.answers.total()} answers, {len(load.failures)} failed")
    failed = {"failed": len(load.failures), "failures": sorted(set(load.failures))[:5]}
    return {"disruptions": count, "answers": load.answers.total(), **failed}


async def _rolls(replicas: list[Replica], one: dict[str, Any], two: dict[str, Any], rolls: int) -> int:
    """Each roll and each roll back is three manifests: load the other, move the alias, drop the first."""
    generation = 1
    for number in range(2 * rolls):
        old, new = (one, two) if number % 2 == 0 else (two, one)
        for versions, target in (([old, new], old), ([old, new], new), ([new], new)):
            generation += 1
            for replica in replicas:
                _manifest(replica, generation, versions, target)
            names = {version["name"] for version in versions}
            await asyncio.gather(*(replica.until(_settled(generation, names)) for replica in replicas))
    return 2 * rolls


def _settled(generation: int, names: set[str]) -> Callable[[dict[str, Any]], bool]:
    def settled(state: dict[str, Any]) -> bool:
        ready = {version["name"] for version in state["versions"] if version["phase"] == "Ready"}
        held = {version["name"] for version in state["versions"]}
        return state["appliedGeneration"] == generation and ready == names == held

    return settled


def _ready(state: dict[str, Any]) -> bool:
    return bool(state["ready"])


async def _deletions(service: Service, replicas: list[Replica], root: Path, url: str, deletions: int) -> int:
    for number in range(deletions):
        replica = replicas[number % 2]
        kubelet = asyncio.create_task(replica.deleted())
        await asyncio.sleep(random.uniform(0, _SLOWEST_SERVICE_SECONDS))
        service.ready.remove(replica)
        await kubelet
        await replica.start(root, url)
        service.ready.append(replica)
    return deletions


async def _kills(service: Service, replicas: list[Replica], kills: int) -> int:
    for number in range(kills):
        replica = replicas[number % 2]
        replica.processes[1].kill()
        await replica.processes[1].wait()
        await asyncio.sleep(_PROBE_SECONDS)
        service.ready.remove(replica)
        replica.processes[1] = await replica.engine()
        await replica.until(_ready)
        service.ready.append(replica)
    return kills


def _manifest(
    replica: Replica, generation: int, versions: list[dict[str, Any]], target: dict[str, Any]
) -> None:
    route = {"alias": "reviews", "targets": [{"version": target["name"], "weight": 100}]}
    document = {"schemaVersion": 1, "generation": generation, "base": {"name": "base", "fingerprint": None}}
    fresh = replica.folder / "fresh.json"
    fresh.write_text(json.dumps({**document, "versions": versions, "routes": [route]}))
    fresh.replace(replica.folder / "manifest.json")


def _adapter(root: Path, name: str, value: float) -> dict[str, Any]:
    """Publish a LoRA adapter of the base; its entry of the manifest."""
    digest = publish(root / "sources" / "pvc" / "adapters" / name, root / "base", value)
    version = f"reviews--{digest.removeprefix('sha256:')[:12]}"
    return {"name": version, "source": f"pvc://adapters/{name}", "digest": digest}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def _engine(uds: str) -> None:
    await StandInEngine(Path(uds)).start()
    await asyncio.Event().wait()


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rolls", type=int, default=100, help="each forth and back")
    parser.add_argument("--deletions", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        uvloop.run(_engine(args.engine))
        return
    with tempfile.TemporaryDirectory(prefix="ft-") as folder:
        found = uvloop.run(measure(Path(folder), args.rolls, args.deletions, args.kills))
    write("disruptions", {"clients": CLIENTS, **found}, ["aiohttp", "openai"])


if __name__ == "__main__":
    main()
