"""A gateway in front of an engine on a real unix socket whose answers each test writes itself."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient
from prometheus_client import CollectorRegistry, generate_latest

from finetune_serving.documents import ServerManifest
from finetune_serving.gateway.app import Gateway
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Ledger
from finetune_serving.gateway.metrics import GatewayCollector
from finetune_serving.gateway.routing import table_of
from tests.engine_stand_in import error

CHAT = "/v1/chat/completions"
BODY = {"model": "reviews", "messages": [{"role": "user", "content": "hi"}]}
VERSION = "reviews--1"
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
Client = TestClient[Any, Any]
Reply = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def event(**content: Any) -> bytes:
    """One event of a stream as vLLM writes it."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    """An event with text."""
    return event(model=VERSION, choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


DONE = b"data: [DONE]\n\n"
STREAM = (delta("one"), delta(" two", "stop"))


@dataclass
class Engine:
    """`reply` answers what generates; `waiting` is set when it waits for `hold`, `left` when it is cancelled."""

    path: Path
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    reply: Reply | None = None
    loaded: set[str] = field(default_factory=lambda: {"base", VERSION})
    hold: asyncio.Event | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        self.path.unlink(missing_ok=True)
        application = web.Application(client_max_size=2**30)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_post("/{path:.*}", self._generate)
        self.runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.UnixSite(self.runner, str(self.path)).start()

    async def stop(self) -> None:
        """Stop listening, as a process that ends."""
        if self.runner is not None:
            await self.runner.cleanup()

    async def pause(self) -> None:
        """Wait for `hold` if there is one."""
        self.waiting.set()
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def stream(self, request: web.Request, *parts: bytes, end: bytes = DONE) -> web.StreamResponse:
        """Answer with the first part, pause, then the others."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(parts[0])
        await self.pause()
        for part in (*parts[1:], end):
            await response.write(part)
        return response

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers.copy())
        if body["model"] not in self.loaded:
            return error(404, f"The model `{body['model']}` does not exist.")
        if self.reply is not None:
            return await self.reply(request, body)
        if body.get("stream"):
            usage = (event(choices=[], usage=USAGE),) if body.get("stream_options") else ()
            return await self.stream(request, *STREAM, *usage)
        await self.pause()
        choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
        return web.json_response({"model": body["model"], "choices": [choice], "usage": USAGE})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "base", "root": "/models/base", "max_model_len": 4096}]})

    async def _metrics(self, _: web.Request) -> web.Response:
        lines = ["# HELP vllm:num_requests_running text", "# TYPE vllm:num_requests_running gauge"]
        lines += ['vllm:num_requests_running{engine="0"} 3.0', "vllm:prompt_tokens_created 1.0"]
        lines += [
            "# HELP vllm:lora_requests_info text",
            'vllm:lora_requests_info{running_lora_adapters="a"} 1.0',
        ]
        return web.Response(text="\n".join(lines) + "\n")


class Setup:
    """A gateway whose alias `reviews` is answered by `reviews--1`; `keys` is the folder of its API keys."""

    def __init__(self, session: aiohttp.ClientSession, keys: Path | None = None) -> None:
        self.ledger, self.book, self.ring = Ledger(), Book(), KeyRing(keys)
        self.manifest()
        self.book.engine_up = self.book.ready = True
        self.gateway = Gateway(session, self.book, self.ring, self.ledger)

    def manifest(self, **fields: Any) -> None:
        """What the agent does with a server manifest once its versions are loaded."""
        route = {"alias": "reviews", "targets": [{"version": VERSION}]}
        document = {
            "schemaVersion": 1,
            "generation": 1,
            "base": {"name": "base"},
            "routes": [route],
            **fields,
        }
        manifest = ServerManifest.model_validate(document)
        self.book.table, self.book.limits = table_of(manifest), manifest.limits
        self.book.loaded = manifest.routed() | manifest.on_trial()
        self.book.grants = {grant.name: grant.aliases for grant in manifest.keys}
        self.tick()

    def tick(self) -> None:
        """What the agent does several times a second."""
        self.ledger.keep(self.book.table.pairs())

    def metrics(self) -> str:
        """What Prometheus gets."""
        registry = CollectorRegistry()
        registry.register(GatewayCollector(self.book, self.ledger, self.ring))
        return generate_latest(registry).decode()

    async def finished(self) -> None:
        """Wait until nothing is in flight."""
        async with asyncio.timeout(30):
            await self.ledger.idle()
