"""What users of a ModelServer notice of a run that scores its candidate there.

    python -m benchmarks.shared_scoring [--users 16] [--seconds 60]

Gateway and agent are the real process, the scorer's client is the trainer's, and the operator's part is one
line of the server manifest. The engine stands in: it makes a token for every request of its batch in each
step, a step takes 20 ms and 0.25 ms for each request, and loading an adapter stops it for half a second. So
the seconds are made up, and what is measured is how much longer they get.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.gateway.load import CHAT, Result, closed_loop
from benchmarks.gateway.processes import free_port, running, wait_for_answer, wait_for_socket
from benchmarks.record import write
from finetune_trainer.contracts import ServerSpec
from finetune_trainer.scoring.client import Engine, Prompt
from finetune_trainer.scoring.server import ServerEngine
from tests.engine_stand_in import StandInEngine
from tests.small_artifacts import publish, write_base

STEP_SECONDS, REQUEST_SECONDS, LOAD_SECONDS = 0.02, 0.00025, 0.5
TOKENS = 64
AT_ONCE = 32  # what a scorer asks of an engine of its own
QUESTION = Prompt(({"role": "user", "content": "word " * 40},))


@dataclass
class BatchedEngine(StandInEngine):
    """An engine whose requests share its steps."""

    left: dict[int, int] = field(default_factory=dict)
    stepped: asyncio.Condition = field(default_factory=asyncio.Condition)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def steps(self) -> None:
        """Make tokens for as long as the process lives."""
        while True:
            async with self.loading:
                await asyncio.sleep(STEP_SECONDS + REQUEST_SECONDS * len(self.left))
            async with self.stepped:
                self.left = {one: tokens - 1 for one, tokens in self.left.items() if tokens > 0}
                self.stepped.notify_all()

    async def _answer(self, request: web.Request, body: dict[str, Any], model: str) -> web.StreamResponse:
        if "messages" not in body:
            return await super()._answer(request, body, model)
        one = id(body)
        self.left[one] = int(body.get("max_tokens", TOKENS))
        async with self.stepped:
            await self.stepped.wait_for(lambda: one not in self.left)
        choice = {"message": {"content": "word"}, "finish_reason": "stop"}
        usage = {"completion_tokens": TOKENS}
        return web.json_response({"model": model, "choices": [choice], "usage": usage})

    async def _load(self, request: web.Request) -> web.Response:
        async with self.loading:
            await asyncio.sleep(LOAD_SECONDS)
        return await super()._load(request)


def main() -> None:
    """Measure and record."""
    if sys.argv[1:2] == ["engine"]:
        asyncio.run(_serve(Path(sys.argv[2])))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=16, help="requests of users in flight")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="ft-") as name,
        _engine(Path(name)) as uds,
        _gateway(Path(name), uds) as address,
    ):
        found = asyncio.run(_measured(Path(name), address, options.users, options.seconds))
    found |= {"users": options.users, "seconds": options.seconds, "tokens": TOKENS}
    print(json.dumps(found, indent=2))
    write("shared_scoring", found, ["aiohttp", "httpx", "uvloop"])


async def _serve(uds: Path) -> None:
    engine = BatchedEngine(uds)
    await engine.start()
    await engine.steps()


@contextmanager
def _engine(folder: Path) -> Iterator[Path]:
    uds = folder / "engine.sock"
    with running(sys.executable, "-m", "benchmarks.shared_scoring", "engine", str(uds)):
        wait_for_socket(uds)
        yield uds


@contextmanager
def _gateway(folder: Path, uds: Path) -> Iterator[str]:
    """Its address; it serves the base, and what the manifest in `folder` lists by and by."""
    write_base(folder / "base")
    manifest = {"schemaVersion": 1, "generation": 1, "base": {"name": "base"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    port, agent_port = free_port(), free_port()
    command = ["-m", "finetune_serving", "gateway", "--manifest", str(folder / "manifest.json")]
    command += ["--uds", str(uds), "--model", str(folder / "base"), "--adapters", str(folder / "adapters")]
    command += ["--sources", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--agent-port", str(agent_port), "--drain-seconds", "0"]
    with running(sys.executable, *command):
        wait_for_answer(f"http://127.0.0.1:{agent_port}/readyz")
        yield f"127.0.0.1:{port}"


async def _measured(folder: Path, address: str, users: int, seconds: float) -> dict[str, Any]:
    alone = await closed_loop(address, _request(), users, seconds)
    beside, rows = await _beside(address, users, seconds, _candidate(folder, address))
    unbounded = _candidate(folder, address)
    unbounded.places = AT_ONCE
    many, more = await _beside(address, users, seconds, unbounded, model="base")
    return {
        "users alone": _times(alone),
        "users beside a run that scores": _times(beside) | {"rowsPerMinute": round(rows / seconds * 60)},
        f"users beside {AT_ONCE} questions at once": _times(many)
        | {"rowsPerMinute": round(more / seconds * 60)},
    }


async def _beside(
    address: str, users: int, seconds: float, engine: Engine, model: str | None = None
) -> tuple[Result, int]:
    """What users saw while an engine was asked row after row, and how many rows it answered.

    Without a `model` it is the candidate, which is loaded first, while users ask already.
    """
    rows = 0

    async def ask(name: str) -> None:
        nonlocal rows
        while True:
            await engine.chat(name, QUESTION, TOKENS)
            rows += 1

    async def score() -> None:
        async with engine:
            name = model or await engine.load_adapter("tuned", Path())
            await asyncio.gather(*(ask(name) for _ in range(engine.places)))

    scoring = asyncio.create_task(score())
    seen = await closed_loop(address, _request(), users, seconds)
    scoring.cancel()
    with suppress(asyncio.CancelledError):
        await scoring
    return seen, rows


def _candidate(folder: Path, address: str) -> ServerEngine:
    """The engine of a run whose candidate the manifest lists as soon as it is offered."""
    spec = ServerSpec(
        endpoint=f"http://{address}/v1",
        model="base",
        template="sha256:" + "0" * 64,
        candidate="candidate.run",
        source="pvc://adapters/run",
    )

    def offer() -> str:
        digest = publish(folder / "pvc" / "adapters" / "run", folder / "base", promoted=False)
        name = f"candidate.run--{digest.removeprefix('sha256:')[:12]}"
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["generation"] += 1
        entry = {"name": name, "source": spec.source, "digest": digest, "allowUnpromoted": True}
        manifest["versions"] = [entry]
        manifest["candidates"] = [{"version": name, "key": None}]
        fresh = folder / "fresh.json"
        fresh.write_text(json.dumps(manifest))
        fresh.replace(folder / "manifest.json")
        return digest

    return ServerEngine(spec, offer)


def _request() -> bytes:
    body = json.dumps({"model": "base", "max_tokens": TOKENS, **QUESTION.to_json()}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _times(result: Result) -> dict[str, float]:
    """Milliseconds of an answer."""
    percent = statistics.quantiles(result.latencies, n=100)
    return {
        "p50": round(percent[49] * 1e3),
        "p95": round(percent[94] * 1e3),
        "p99": round(percent[98] * 1e3),
        "answers": result.answers,
        "failed": result.failed,
    }


if __name__ == "__main__":
    main()
