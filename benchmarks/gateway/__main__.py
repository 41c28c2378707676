"""How fast the gateway is beside the engine alone, with an engine that answers at once.

    python -m benchmarks.gateway [--seconds 5] [--routers DIR]

The gateway is the real process (`python -m finetune_serving gateway`), the engine a stand-in in another one,
and the clients write raw bytes, so nearly all that is measured is the gateway. Rates depend on what else the
machine does; `perCore` counts the gateway's own processor time and depends on it little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.gateway.load import Client, Result, at_rate, closed_loop, connect, request
from benchmarks.gateway.processes import free_port, running, wait_for_answer, wait_for_socket
from benchmarks.gateway.routers import ROUTERS, install_command, started
from benchmarks.record import write

KIB = 1024
# Name, bytes of the body, requests in flight.
SIZES = (("200 B", 200, 16), ("220 KiB", 220 * KIB, 16), ("1 MiB", KIB * KIB, 64))
HELD = 48
STREAMS = 64
EVENTS = 100


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    text = f"an environment with the routers that users would pick: {install_command(Path('DIR'))}"
    parser.add_argument("--routers", type=Path, metavar="DIR", help=text)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ft-") as name:
        found = _compared(Path(name), options.seconds, options.routers)
    print(json.dumps(found, indent=2))
    write("gateway", found, ["aiohttp", "msgspec", "uvloop"])


def _compared(folder: Path, seconds: float, routers: Path | None) -> dict[str, Any]:
    with _engine(folder) as uds:
        direct = uvloop.run(_measured(str(uds), None, seconds))
        with _gateway(folder, uds) as (address, pid):
            ours = uvloop.run(_measured(address, pid, seconds))
    found = {"seconds": seconds, "engine alone": direct, "gateway": ours}
    if routers is not None:
        found |= _others(folder, seconds, routers / "bin")
    for one in found.values():
        if isinstance(one, dict) and one is not direct:
            one["p50AddedMilliseconds"] = round(one["p50Milliseconds"] - direct["p50Milliseconds"], 3)
    return found


def _others(folder: Path, seconds: float, programs: Path) -> dict[str, Any]:
    port = free_port()
    found: dict[str, Any] = {}
    with running(sys.executable, "-m", "benchmarks.gateway.engine", str(port)):
        wait_for_answer(f"http://127.0.0.1:{port}/health")
        for router in ROUTERS:
            with started(router, programs, port, folder) as (address, pid):
                measured = uvloop.run(_rates(address, pid, seconds))
            found[f"{router.name} {router.version}"] = measured
    return found


async def _measured(address: str, pid: int | None, seconds: float) -> dict[str, Any]:
    # Copies first, while nothing that was freed is left to be used again.
    copies = {} if pid is None else {"copiesOfABody": await _copies(address, pid)}
    rates = await _rates(address, pid, seconds)
    before = _cpu(pid)
    result = await closed_loop(address, request(200, f"stream-{EVENTS}", stream=True), STREAMS, seconds)
    return copies | rates | {"streamed events": _rate(result, result.events, _cpu(pid) - before)}


async def _rates(address: str, pid: int | None, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, size, clients in SIZES:
        before = _cpu(pid)
        result = await closed_loop(address, request(size), clients, seconds)
        found[name] = _rate(result, result.answers, _cpu(pid) - before)
    result = await at_rate(address, request(1000), 200, seconds)
    found["p50Milliseconds"] = round(statistics.median(result.latencies) * 1e3, 3)
    return found


def _rate(result: Result, count: int, cpu: float) -> dict[str, float]:
    per_core = {"perCore": round(count / cpu)} if cpu else {}
    return {"perSecond": round(count / result.seconds), **per_core, "failed": result.failed}


async def _copies(address: str, pid: int) -> float:
    """Memory that requests of 1 MiB hold while the engine thinks, in bodies per request."""
    content = request(KIB * KIB, "hold")
    before = _resident(pid)
    held = [await connect(address, lambda: Client(content, Result(), lambda _: None)) for _ in range(HELD)]
    await asyncio.sleep(3)  # the bodies are on their way
    grown = _resident(pid) - before
    for client in held:
        client.transport.close()
    return round(grown / HELD / len(content), 2)


def _cpu(pid: int | None) -> float:
    """Processor seconds of a process so far."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _engine(folder: Path) -> Iterator[Path]:
    uds = folder / "engine.sock"
    with running(sys.executable, "-m", "benchmarks.gateway.engine", str(uds)):
        wait_for_socket(uds)
        yield uds


@contextmanager
def _gateway(folder: Path, uds: Path) -> Iterator[tuple[str, int]]:
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    manifest = {"schemaVersion": 1, "generation": 1, "base": {"name": "base"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    port, agent_port = free_port(), free_port()
    command = ["-m", "finetune_serving", "gateway", "--manifest", str(folder / "manifest.json")]
    command += ["--uds", str(uds), "--model", str(base), "--adapters", str(folder / "adapters")]
    command += ["--sources", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--agent-port", str(agent_port), "--drain-seconds", "0"]
    with running(sys.executable, *command) as process:
        wait_for_answer(f"http://127.0.0.1:{agent_port}/readyz")
        yield f"127.0.0.1:{port}", process.pid


if __name__ == "__main__":
    main()
