"""How fast the gateway is beside the engine alone, with an engine that answers at once.

    python -m benchmarks.gateway [--seconds 5]

The gateway is the real process (`python -m finetune_serving gateway`), the engine a stand-in in another one,
and the clients write raw bytes, so nearly all that is measured is the gateway. Rates depend on what else the
machine does; `perCore` counts the gateway's own processor time and depends on it little.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.gateway.load import Client, Result, at_rate, closed_loop, connect, request
from benchmarks.record import write

KIB = 1024
# Name, bytes of the body, requests in flight.
SIZES = (("200 B", 200, 16), ("220 KiB", 220 * KIB, 16), ("1 MiB", KIB * KIB, 64))
HELD = 48
STREAMS = 64
EVENTS = 100
OTHERS = {
    "vllm-router": ("vllm_router", "no such package in the environment: `pip install vllm-router`"),
    "LiteLLM": ("litellm", "no such package in the environment: `pip install 'litellm[proxy]'`"),
}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="ft-") as folder, _engine(Path(folder)) as uds:
        direct = uvloop.run(_measured(str(uds), None, seconds))
        with _gateway(Path(folder), uds) as (address, pid):
            ours = uvloop.run(_measured(address, pid, seconds))
    ours["p50AddedMilliseconds"] = round(ours["p50Milliseconds"] - direct["p50Milliseconds"], 3)
    found = {"seconds": seconds, "engine alone": direct, "gateway": ours, "others": _others()}
    print(json.dumps(found, indent=2))
    write("gateway", found, ["aiohttp", "msgspec", "uvloop"])


def _others() -> dict[str, str]:
    """Why the routers that users would pick are not in the table."""
    return {
        name: "installed, but not measured here" if importlib.util.find_spec(module) else f"skipped: {why}"
        for name, (module, why) in OTHERS.items()
    }


async def _measured(address: str, pid: int | None, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if pid is not None:  # first, while nothing that was freed is left to be used again
        found["copiesOfABody"] = await _copies(address, pid)
    for name, size, clients in SIZES:
        before = _cpu(pid)
        result = await closed_loop(address, request(size), clients, seconds)
        found[name] = _rate(result, result.answers, _cpu(pid) - before)
    before = _cpu(pid)
    result = await closed_loop(address, request(200, f"stream-{EVENTS}", stream=True), STREAMS, seconds)
    found["streamed events"] = _rate(result, result.events, _cpu(pid) - before)
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
    with _process("-m", "benchmarks.gateway.engine", str(uds)):
        while not uds.exists():
            time.sleep(0.05)
        yield uds


@contextmanager
def _gateway(folder: Path, uds: Path) -> Iterator[tuple[str, int]]:
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    manifest = {"schemaVersion": 1, "generation": 1, "base": {"name": "base"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, agent_port = one.getsockname()[1], two.getsockname()[1]
    command = ["-m", "finetune_serving", "gateway", "--manifest", str(folder / "manifest.json")]
    command += ["--uds", str(uds), "--model", str(base), "--adapters", str(folder / "adapters")]
    command += ["--sources", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with _process(*command, "--agent-port", str(agent_port), "--drain-seconds", "0") as process:
        _wait_until_ready(agent_port)
        yield f"127.0.0.1:{port}", process.pid


def _wait_until_ready(port: int) -> None:
    import httpx

    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
