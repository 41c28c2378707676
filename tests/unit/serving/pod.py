"""A serving pod without containers: agent and gateway at work on a manifest that tests rewrite."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient, TestServer

from finetune_serving.adapter.base import BaseModules
from finetune_serving.agent.agent import Agent
from finetune_serving.agent.engine_client import EngineClient
from finetune_serving.agent.engine_watch import EngineWatch
from finetune_serving.agent.manifest import ManifestFile
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.steps import Places, Steps
from finetune_serving.documents import AliasState, State
from finetune_serving.gateway.app import Gateway
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Ledger

Publish = Callable[..., dict[str, Any]]


class Pod:
    """Agent and gateway; their engine listens on the session's socket and may be silent for `patience`.

    `modules` are those of the base, of which nothing is known if it is left out.
    """

    def __init__(
        self,
        folder: Path,
        session: aiohttp.ClientSession,
        patience: float = 60.0,
        modules: BaseModules = BaseModules(),
    ) -> None:
        self.folder = folder
        self.book = Book()
        self.ledger = Ledger()
        limits = Limits("sha256:" + "b" * 64, 16, base_modules=modules)
        client = EngineClient(session)
        self.watch = EngineWatch(client, self.ledger, lambda: "base", patience)
        self.gateway = Gateway(session, self.book, KeyRing(None), self.ledger)
        self.agent = Agent(
            manifest=ManifestFile(folder / "manifest.json"),
            engine=self.watch,
            steps=Steps(client, Places(folder / "sources", folder / "adapters"), limits, lambda _: None),
            limits=limits,
            book=self.book,
            keys=KeyRing(None),
            ledger=self.ledger,
        )

    def write(
        self,
        generation: int,
        versions: list[dict[str, Any]],
        drain_seconds: int = 600,
        candidates: tuple[str, ...] = (),
        **routes: str,
    ) -> None:
        document = {
            "schemaVersion": 1,
            "generation": generation,
            "base": {"name": "base", "fingerprint": None},
            "versions": versions,
            "candidates": [{"version": name, "key": None} for name in candidates],
            "drainSeconds": drain_seconds,
            "routes": [{"alias": a, "targets": [{"version": v, "weight": 100}]} for a, v in routes.items()],
        }
        fresh = self.folder / "fresh.json"
        fresh.write_text(json.dumps(document))
        fresh.replace(self.folder / "manifest.json")

    async def until(self, condition: Callable[[State], bool]) -> State:
        """The first state that meets the condition; fails after half a minute."""
        async with asyncio.timeout(30):
            while not condition(self.agent.state()):  # noqa: ASYNC110 - state is polled, as the operator does
                await asyncio.sleep(0.01)
        return self.agent.state()

    def api(self) -> TestClient[Any, Any]:
        """A client of the gateway, to be entered."""
        return TestClient(TestServer(self.gateway.app()))

    def phases(self) -> dict[str, str]:
        return {version.name: version.phase for version in self.agent.state().versions}

    def alias(self, name: str) -> AliasState:
        return next(alias for alias in self.agent.state().aliases if alias.alias == name)


class Users:
    """Clients that ask one model each, again and again, until they are stopped; `codes` are the answers."""

    def __init__(self, api: TestClient[Any, Any], model: str, count: int = 8) -> None:
        self.codes: list[int] = []
        self._api, self._model, self._enough = api, model, asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(count)]

    async def _ask(self) -> None:
        while True:
            body = {"model": self._model, "prompt": "x"}
            async with self._api.post("/v1/completions", json=body) as response:
                await response.read()
                self.codes.append(response.status)
            if len(self.codes) >= 3 * len(self._tasks):
                self._enough.set()
            await asyncio.sleep(0.005)

    async def stop(self) -> list[int]:
        """End them, not before each could ask three times; returns every code but 200."""
        async with asyncio.timeout(30):
            await self._enough.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return [code for code in self.codes if code != 200]
