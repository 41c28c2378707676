"""Operators under test: real processes, each behind a proxy of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import yaml

from tests.faults.cluster.client import Client
from tests.faults.operators.proxy import Fault, Proxy

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "images": {"trainer": "trainer:1", "serving": "serving:1"},
    "progressSeconds": 1,
    "imagePullDeadlineSeconds": 2,
    "stuckDeadlineSeconds": 60,
    "hangDeadlineSeconds": 60,
}


class Forks:
    """The process of forks.py."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process
        self._lines: asyncio.Task[None]
        self._asking = asyncio.Lock()
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._ends: dict[int, asyncio.Future[int]] = {}

    async def __aenter__(self) -> Forks:
        """Start it."""
        path = os.pathsep.join([str(ROOT / "operator"), str(ROOT)])
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.operators.forks"),
            env={**os.environ, "PYTHONPATH": path},
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._lines = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it with all that it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._lines

    async def start(
        self, arguments: Sequence[str], settings: Path, log: Path
    ) -> tuple[int, asyncio.Future[int]]:
        """Start an operator; returns its pid and what will be its exit code."""
        request = {
            "arguments": arguments,
            "environment": {"FINETUNE_SETTINGS": str(settings)},
            "log": str(log),
        }
        async with self._asking:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            pid = await self._started.get()
        return pid, self._ends[pid]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        loop = asyncio.get_running_loop()
        async for line in self._process.stdout:
            told = json.loads(line)
            if "started" in told:
                self._ends[told["started"]] = loop.create_future()
                self._started.put_nowait(told["started"])
            else:
                self._ends.pop(told["ended"]).set_result(told["code"])


class Operator:
    """One life of an operator that serves one namespace."""

    def __init__(self, proxy: Proxy, pid: int, ended: asyncio.Future[int], log: Path):
        self.proxy = proxy
        self.log = log
        self._ended = ended
        self._pid = pid

    async def end(self) -> int:
        """Wait for its end; returns the exit code."""
        await asyncio.wait([self._ended])  # waiting for the future itself would cancel it with the waiter
        return self._ended.result()

    async def port(self) -> int:
        """Where it answers probes, once its log says that it works."""
        while not self._ended.done():
            lines = {line["message"]: line for line in map(_parsed, self.log.read_text().splitlines())}
            if "started" in lines:
                return int(lines["listening"]["port"])
            await asyncio.sleep(0.05)  # a file tells nobody that it grew
        raise AssertionError(self.log.read_text())

    @property
    def works(self) -> bool:
        """Whether it has begun and not ended."""
        return not self._ended.done() and "started" in {
            _parsed(line)["message"] for line in self.log.read_text().splitlines()
        }

    def kill(self) -> None:
        """SIGKILL: it ends between two instructions."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """A signal, unless it has ended."""
        if not self._ended.done():
            os.kill(self._pid, number)


class Operators:
    """Starts operators for one namespace; leaving the block ends them all."""

    def __init__(self, forks: Forks, client: Client, folder: Path, namespace: str):
        self._forks = forks
        self._client = client
        self._folder = folder
        self._namespace = namespace
        self._stack = AsyncExitStack()
        self.lives: list[Operator] = []

    async def __aenter__(self) -> Operators:
        """A folder for logs and settings."""
        self._folder.mkdir(parents=True)
        (self._folder / "settings.json").write_text(json.dumps(SETTINGS))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill what still runs."""
        for life in self.lives:
            life.kill()
        await asyncio.gather(*(life.end() for life in self.lives))
        await self._stack.aclose()

    async def start(self, *faults: Fault, lease: str | None = None) -> Operator:
        """One more operator, behind a proxy with these faults; `lease` is NAMESPACE/NAME."""
        number = len(self.lives) + 1
        proxy = await self._stack.enter_async_context(Proxy(self._client, faults))
        kubeconfig, log = self._folder / f"{number}.kubeconfig", self._folder / f"{number}.log"
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(proxy.url)))
        arguments = ["run", "--kubeconfig", str(kubeconfig), "--namespace", self._namespace]
        arguments += ["--host", "127.0.0.1", "--port", "0"]
        arguments += ["--lease", lease] if lease else []
        log.touch()
        pid, ended = await self._forks.start(arguments, self._folder / "settings.json", log)
        self.lives.append(Operator(proxy, pid, ended, log))
        return self.lives[-1]

    def messages(self) -> list[dict[str, Any]]:
        """The lines of all logs; one that is no JSON (a traceback of the interpreter) is CRITICAL."""
        return [_parsed(line) for life in self.lives for line in life.log.read_text().splitlines()]


def _parsed(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {"level": "CRITICAL", "message": line, "logger": ""}


def _kubeconfig(url: str) -> dict[str, Any]:
    context = {"name": "faults", "context": {"cluster": "faults", "user": "operator"}}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "faults", "cluster": {"server": url}}],
        "users": [{"name": "operator", "user": {}}],
        "contexts": [context],
        "current-context": "faults",
    }
