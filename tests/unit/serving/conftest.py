"""A stand-in engine on a real unix socket, for the faults that a real one cannot be asked for."""

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web


@dataclass
class StandInEngine:
    """Speaks the part of vLLM's API that gateway and agent use, and fails on demand.

    `refuse_load` is the answer to loads (status, body); `no_ops` are adapters that answer like the base;
    `hold` makes generation wait until it is set; `break_streams` cuts a stream after its first event.
    """

    path: Path
    engine_id: str = "engine-1"
    loras: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    no_ops: set[str] = field(default_factory=set)
    refuse_load: tuple[int, dict[str, Any]] | None = None
    hold: asyncio.Event | None = None
    break_streams: bool = False
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; a stale socket file is removed first."""
        self.path.unlink(missing_ok=True)
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/internal/engine", self._engine)
        app.router.add_get("/internal/loras", self._loras)
        app.router.add_post("/internal/remove_lora", self._remove)
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
        self.loras.clear()
        self.engine_id += "+"
        await self.start()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _engine(self, _: web.Request) -> web.Response:
        return web.json_response({"engineId": self.engine_id})

    async def _loras(self, _: web.Request) -> web.Response:
        loras = {name: {"path": path, "id": 1} for name, path in self.loras.items()}
        return web.json_response({"engineId": self.engine_id, "loras": loras, "resident": []})

    async def _remove(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.removed.append(name)
        self.loras.pop(name, None)
        return web.json_response({"removed": True, "resident": False})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.refuse_load is not None:
            return web.json_response(self.refuse_load[1], status=self.refuse_load[0])
        self.loras[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = body["model"]
        self.seen.append(model)
        self.bodies.append(body)
        if model != "base" and model not in self.loras:
            return web.json_response({"error": {"message": f"no {model}"}}, status=404)
        if "logprobs" in body:
            value = -1.0 if model == "base" or model in self.no_ops else -2.0
            choice = {"text": "", "logprobs": {"tokens": ["a"], "top_logprobs": [{"a": value}]}}
            return web.json_response({"model": model, "choices": [choice]})
        if body.get("stream"):
            return await self._stream(request, model)
        await self._pause()
        return web.json_response({"model": model, "choices": [{"text": "hello"}]})

    async def _stream(self, request: web.Request, model: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f'data: {{"model": "{model}", "n": 1}}\n\n'.encode())
        if self.break_streams and request.transport is not None:
            request.transport.abort()
            return response
        await self._pause()
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _pause(self) -> None:
        self.started.set()
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def tiny_weights(name: str, rank: object) -> bytes:
    """A safetensors file with the matrices of one module of width 1, all numbers one; `name` makes it unique."""
    rank = rank if isinstance(rank, int) else 1
    module, size = "base_model.model.model.layers.0.self_attn.q_proj", 4 * rank
    header = {
        "__metadata__": {"name": name},
        f"{module}.lora_A.weight": {"dtype": "F32", "shape": [rank, 1], "data_offsets": [0, size]},
        f"{module}.lora_B.weight": {"dtype": "F32", "shape": [1, rank], "data_offsets": [size, 2 * size]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<f", 1.0) * 2 * rank


@pytest.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[StandInEngine]:
    engine = StandInEngine(tmp_path / "e.sock")
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Publish an adapter under the claim `adapters`; returns its entry for the server manifest."""

    def make(
        name: str,
        manifest: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        extra: dict[str, bytes] | None = None,
    ) -> dict[str, Any]:
        folder = tmp_path / "sources" / "pvc" / "adapters" / name
        folder.mkdir(parents=True)
        peft = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], **(config or {})}
        contents = {
            "adapter_config.json": json.dumps(peft).encode(),
            "adapter_model.safetensors": tiny_weights(name, peft["r"]),
            **(extra or {}),
        }
        files = []
        for path, content in contents.items():
            (folder / path).write_bytes(content)
            files.append({"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
        document = {
            "schemaVersion": 1,
            "kind": "Adapter",
            "baseModel": {"source": "pvc://b/m", "revision": None, "fingerprint": "sha256:" + "b" * 64},
            "adapter": {"rank": peft["r"], "alpha": 16},
            "files": files,
            "promoted": True,
            **(manifest or {}),
        }
        text = json.dumps(document).encode()
        (folder / "manifest.json").write_bytes(text)
        digest = hashlib.sha256(text).hexdigest()
        return {
            "name": f"{name}--{digest[:12]}",
            "source": f"pvc://adapters/{name}",
            "digest": f"sha256:{digest}",
            "allowUnpromoted": False,
        }

    return make
