"""The agent's own server on :8001: health for the kubelet, /state for the operator, /metrics for people."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import get_args

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from finetune_serving.documents import Phase, State


def agent_app(
    state: Callable[[], State], registry: CollectorRegistry, engine_metrics: Callable[[], Awaitable[bytes]]
) -> web.Application:
    """The aiohttp application; `state` gives the document of the moment, `engine_metrics` what is added."""
    ready = Gauge("finetune_server_ready", "1 when this pod should get requests", registry=registry)
    ready.set_function(lambda: float(state().ready))
    generation = Gauge(
        "finetune_server_applied_generation", "Manifest generation in force", registry=registry
    )
    generation.set_function(lambda: float(state().applied_generation))
    slots = Gauge(
        "finetune_server_adapter_slots", "Adapters that the engine holds at most", registry=registry
    )
    slots.set_function(lambda: float(state().slots))
    adapters = Gauge("finetune_server_adapters", "Versions by phase", ["phase"], registry=registry)
    for phase in get_args(Phase):
        adapters.labels(phase).set_function(partial(_in_phase, state, phase))

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        now = state()
        return web.Response(status=200 if now.ready else 503, text=(now.message or "ok") + "\n")

    async def state_document(_: web.Request) -> web.Response:
        return web.Response(text=state().model_dump_json(by_alias=True), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        content = generate_latest(registry) + await engine_metrics()
        return web.Response(body=content, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/state", state_document)
    app.router.add_get("/metrics", metrics)
    return app


def _in_phase(state: Callable[[], State], phase: str) -> float:
    return float(sum(version.phase == phase for version in state().versions))
