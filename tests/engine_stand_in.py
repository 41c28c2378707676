"""An engine on a real unix socket that behaves as vLLM 0.32 does towards gateway and agent, and fails on
demand. tests/contract/engine/test_stand_in.py asks it and real vLLM the same questions.
"""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

NAN_TEXT = "Out of range float values are not JSON compliant"


@dataclass
class StandInEngine:
    """One engine process; what is set on it holds for the requests that follow.

    `max_loras` distinct adapters generate at a time, others wait (None: no limit); `slots` is only told. `refuse_load` is the
    answer to every load (status, body), `refuse_loads` by name; loading one of `kills` ends the process, which
    is started again. `no_ops` are adapters that answer like the
    base, `nans` those whose log-probabilities are not finite: they leave rows behind that make shorter
    prompts of anybody come back empty. `noise` is added to the log-probabilities of every second answer.
    Answers of `silent` adapters have no text; those of `failing` ones are 500 to all but the agent's probes.
    `hold` makes generation of more than one token wait until it is set, `hangs` any for ever; `break_streams` cuts a
    stream after its first event. `slow_health` holds back the answers to questions about health.
    `fail_removals` answers them with 500.
    """

    path: Path
    base: str = "base"
    engine_id: str = "engine-1"
    max_loras: int | None = None
    slots: int = 3
    max_logprobs: int = 20
    max_model_len: int = 4096
    loras: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    no_ops: set[str] = field(default_factory=set)
    nans: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    noise: float = 0.0
    poisoned_below: int = 0
    refuse_load: tuple[int, dict[str, Any]] | None = None
    refuse_loads: dict[str, tuple[int, str]] = field(default_factory=dict)
    kills: set[str] = field(default_factory=set)
    fail_removals: bool = False
    hold: asyncio.Event | None = None
    hangs: bool = False
    exits: int = 0
    slow_health: asyncio.Event | None = None
    break_streams: bool = False
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    running: Counter[str] = field(default_factory=Counter)
    freed: asyncio.Condition = field(default_factory=asyncio.Condition)
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; a stale socket file is removed first."""
        self.path.unlink(missing_ok=True)
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/internal/engine", self._engine)
        app.router.add_get("/internal/loras", self._loras)
        app.router.add_post("/internal/remove_lora", self._remove)
        app.router.add_post("/internal/exit", self._exit)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_post("/v1/completions", self._generate)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.UnixSite(self.runner, str(self.path)).start()

    async def stop(self) -> None:
        """Stop listening, as a process that ends."""
        if self.runner is not None:
            await self.runner.cleanup()

    async def restart(self) -> None:
        """Come back as a new process that holds nothing."""
        await self.stop()
        self._forget()
        await self.start()

    def _forget(self) -> None:
        self.loras.clear()
        self.running.clear()
        self.poisoned_below, self.hangs = 0, False
        self.engine_id += "+"

    async def _health(self, _: web.Request) -> web.Response:
        if self.slow_health is not None:
            await self.slow_health.wait()
        return web.Response()

    async def _engine(self, _: web.Request) -> web.Response:
        return web.json_response({"engineId": self.engine_id, "slots": self.slots})

    async def _exit(self, _: web.Request) -> web.Response:
        self.exits += 1
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        cards: list[dict[str, Any]] = [{"id": self.base, "max_model_len": self.max_model_len}]
        cards += [{"id": name, "root": path, "parent": self.base} for name, path in self.loras.items()]
        return web.json_response({"object": "list", "data": cards})

    async def _loras(self, _: web.Request) -> web.Response:
        loras = {name: {"path": path, "id": i} for i, (name, path) in enumerate(self.loras.items(), 1)}
        resident = [lora["id"] for lora in loras.values()]
        return web.json_response({"engineId": self.engine_id, "loras": loras, "resident": resident})

    async def _remove(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.fail_removals:
            return web.Response(status=500, text="Internal Server Error")
        self.removed.append(name)
        return web.json_response({"removed": self.loras.pop(name, None) is not None, "resident": False})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if name in self.kills and request.transport is not None:
            self._forget()
            request.transport.abort()
        if self.refuse_load is not None:
            return web.json_response(self.refuse_load[1], status=self.refuse_load[0])
        if name in self.refuse_loads:
            status, text = self.refuse_loads[name]
            return error(status, f"Call to add_lora method failed: {text}")
        if name in self.loras:
            return error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (Path(path) / "adapter_config.json").exists():
            return error(404, f"Loading lora {name} failed: No adapter found for {path}")
        self.loras[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = body["model"]
        self.seen.append(model)
        self.bodies.append(body)
        if model != self.base and model not in self.loras:
            return error(404, f"The model `{model}` does not exist.")
        if (wrong := self._wrong(body)) is not None:
            return error(400, wrong)
        await self._enter(model)
        try:
            return await self._answer(request, body, model)
        finally:
            await self._leave(model)

    def _wrong(self, body: dict[str, Any]) -> str | None:
        """What vLLM says of a request that it does not take."""
        asked, room = body.get("logprobs") or 0, self.max_model_len - body.get("max_tokens", 1)
        if asked > self.max_logprobs:
            return f"Requested sample logprobs of {asked}, which is greater than max allowed: {self.max_logprobs}"
        if prompt_tokens(body) > room:
            return f"This model's maximum context length is {self.max_model_len} tokens."
        return None

    async def _enter(self, model: str) -> None:
        """An adapter waits while `max_loras` others generate, however long that lasts."""
        async with self.freed:
            await self.freed.wait_for(lambda: self._fits(model))
            self.running[model] += 1

    def _fits(self, model: str) -> bool:
        others = {name for name, count in self.running.items() if count and name not in (self.base, model)}
        return model == self.base or self.max_loras is None or len(others) < self.max_loras

    async def _leave(self, model: str) -> None:
        async with self.freed:
            self.running[model] -= 1
            self.freed.notify_all()

    async def _answer(self, request: web.Request, body: dict[str, Any], model: str) -> web.StreamResponse:
        tokens = prompt_tokens(body)
        poisoned = model in self.nans or tokens < self.poisoned_below
        self.poisoned_below = tokens + 1 if model in self.nans else self.poisoned_below if poisoned else 0
        if "logprobs" in body or body.get("max_tokens") == 1:
            await self._pause(quick=True)
        if "logprobs" in body:
            return error(400, NAN_TEXT) if poisoned else self._reading(model)
        if model in self.failing:
            return error(500, "CUDA error: device-side assert triggered")
        if body.get("stream"):
            return await self._stream(request, model)
        if body.get("max_tokens") != 1:
            await self._pause()
        choice = {
            "index": 0,
            "text": "" if poisoned or model in self.silent else "hello",
            "finish_reason": "stop",
        }
        return web.json_response({"model": model, "choices": [choice]})

    def _reading(self, model: str) -> web.Response:
        value = -1.0 if model == self.base or model in self.no_ops else -2.0
        value += self.noise * (len(self.seen) % 2)
        choice = {"text": "", "logprobs": {"tokens": ["a"], "top_logprobs": [{"a": value}]}}
        return web.json_response({"model": model, "choices": [choice]})

    async def _stream(self, request: web.Request, model: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        first = json.dumps({"model": model, "n": 1})
        await response.write(f"data: {first}\n\n".encode())
        if self.break_streams and request.transport is not None:
            request.transport.abort()
            return response
        await self._pause()
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _pause(self, *, quick: bool = False) -> None:
        """Generation takes as long as `hold` or `hangs` say; the agent's probes only wait for `hangs`."""
        if not quick:
            self.started.set()
        try:
            if self.hangs:
                await asyncio.Event().wait()
            if self.hold is not None and not quick:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def session(path: Path, **connector: Any) -> aiohttp.ClientSession:
    """Calls to the engine behind a unix socket; to be entered."""
    return aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(str(path), **connector))


def prompt_tokens(body: dict[str, Any]) -> int:
    """The words of a completion's prompt, as many as are kept."""
    words = len(str(body.get("prompt", "")).split())
    return min(words, int(body.get("truncate_prompt_tokens", words)))


def error(status: int, message: str) -> web.Response:
    """An error in vLLM's shape."""
    kinds = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
    body = {"error": {"message": message, "type": kinds[status], "param": None, "code": status}}
    return web.json_response(body, status=status)
