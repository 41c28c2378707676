"""The gateway container: gateway (:8000) and agent (:8001) in one event loop, until SIGTERM."""

import asyncio
import ctypes
import logging
import signal
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from pydantic import JsonValue, ValidationError

from finetune_serving.adapter.base import BaseModules, read_base
from finetune_serving.agent.agent import Agent
from finetune_serving.agent.app import agent_app
from finetune_serving.agent.artifact import MANIFEST
from finetune_serving.agent.engine_client import EngineClient
from finetune_serving.agent.engine_watch import EngineWatch
from finetune_serving.agent.manifest import ManifestFile
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.slowdown import SlowdownWatch
from finetune_serving.agent.steps import Places, Steps
from finetune_serving.documents import ModelManifest
from finetune_serving.engine import traces_endpoint
from finetune_serving.fingerprint import base_fingerprint
from finetune_serving.gateway.app import Gateway, Span, no_span
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Ledger
from finetune_serving.gateway.metrics import GatewayCollector, engine_metrics
from finetune_serving.gateway.peers import Peers
from finetune_serving.logs import configure
from finetune_serving.options import Options

logger = logging.getLogger(__name__)
# Clients with open connections are told to leave with each answer; idle ones get this long to send one.
LAME_DUCK_SECONDS = 2.0
_IDLE_SECONDS = 15.0
# A client has this long for the head of a request, and between two of them.
CLIENT_IDLE_SECONDS = 75.0
# Fewer pauses while large bodies come in (bytes).
_READ_BUFFER = 256 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def run_gateway(options: Options) -> int:
    """Serve until SIGTERM or SIGINT; exit code 1 when the base model folder cannot be read."""
    configure()
    keep_freed_memory()
    try:
        fingerprint = base_fingerprint(options.model)
    except (OSError, ValueError) as error:
        logger.error("the base model cannot be read: %s", error)
        return 1
    logger.info("base model", extra={"fields": {"fingerprint": fingerprint}})
    uvloop.run(_until_signal(options, fingerprint))
    return 0


def keep_freed_memory() -> None:
    """Let glibc keep what large bodies leave, up to 256 MiB.

    It would give it back to the kernel and fault it in again for the next body: a tenth of the time that a
    body of 220 KiB takes. Elsewhere than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)  # the highest that glibc takes
        mallopt(_M_TRIM_THRESHOLD, 256 * 1024 * 1024)


async def _until_signal(options: Options, fingerprint: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(options, fingerprint, stop)


async def serve(options: Options, fingerprint: str, stop: asyncio.Event) -> None:
    """Run both servers until `stop` is set or the agent fails, then let the requests in flight finish."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    book, ledger, keys = Book(), Ledger(), KeyRing(options.keys)
    registry.register(GatewayCollector(book, ledger, keys))
    async with AsyncExitStack() as stack:
        # The engine keeps idle connections for a minute, so it is the gateway that closes them. The agent
        # reuses none: it must never take a connection that was closed for an engine that is gone.
        engine = await stack.enter_async_context(_session(options.uds, _IDLE_SECONDS))
        judged = await stack.enter_async_context(_session(options.uds, None))
        client = EngineClient(judged)
        agent = _agent(options, fingerprint, client, registry, book, keys, ledger)
        slowdown = SlowdownWatch(client, ledger, agent.at_rest)
        registry.register(slowdown)
        peers, span = await _peers(stack, options.peers), _span(stack)
        gateway = Gateway(engine, book, keys, ledger, peers, span)
        await _listen(stack, gateway.app(), options.host, options.port)
        agents = agent_app(agent.state, registry, partial(engine_metrics, engine))
        await _listen(stack, agents, options.host, options.agent_port)
        work = asyncio.create_task(agent.run())
        measuring = asyncio.create_task(slowdown.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        measuring.cancel()
        if work.done():
            logger.error("the agent failed; the process ends and is started again", exc_info=work.exception())
        await _drain(book, ledger, options.drain_seconds)
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work  # raises what the agent failed with: that is the process's own failure


def _span(stack: AsyncExitStack) -> Span:
    """What makes the spans of requests, where a collector is configured."""
    endpoint = traces_endpoint()
    if endpoint is None:
        return no_span
    from finetune_serving.gateway.spans import ServerSpans, exporting, send_rest

    provider = exporting(endpoint)
    stack.push_async_callback(asyncio.to_thread, send_rest, provider)
    logger.info("spans go to a collector", extra={"fields": {"endpoint": endpoint}})
    return ServerSpans(provider).of


async def _peers(stack: AsyncExitStack, address: str | None) -> Peers | None:
    if address is None:
        return None
    # A new connection each time: the Service chooses among the replicas that are ready now.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
    return Peers(await stack.enter_async_context(session), address)


def _session(uds: Path, idle_seconds: float | None) -> aiohttp.ClientSession:
    """Calls to the engine; connections are kept for `idle_seconds`, or each is used once."""
    connector = aiohttp.UnixConnector(
        str(uds), limit=0, keepalive_timeout=idle_seconds, force_close=idle_seconds is None
    )
    return aiohttp.ClientSession("http://engine", connector=connector, cookie_jar=aiohttp.DummyCookieJar())


def _agent(
    options: Options,
    fingerprint: str,
    engine: EngineClient,
    registry: CollectorRegistry,
    book: Book,
    keys: KeyRing,
    ledger: Ledger,
) -> Agent:
    loads = Histogram(
        "finetune_server_adapter_load_seconds", "Time the engine takes to load", registry=registry
    )
    limits = _limits(options, fingerprint)
    places = Places(options.sources, options.adapters)
    return Agent(
        manifest=ManifestFile(options.manifest),
        engine=EngineWatch(engine, ledger, lambda: book.table.base),
        steps=Steps(engine, places, limits, loads.observe),
        limits=limits,
        book=book,
        keys=keys,
        ledger=ledger,
    )


def _limits(options: Options, fingerprint: str) -> Limits:
    published = int((options.model / "config.json").stat().st_mtime)
    kwargs, modules = base_template_kwargs(options.model), base_modules(options.model)
    return Limits(fingerprint, options.max_lora_rank, published, kwargs, modules, options.derived_from)


def base_modules(model: Path) -> BaseModules:
    """The modules that adapters are compared with; none, and a warning, when the base's headers are odd."""
    try:
        base = read_base(model)
    except (OSError, ValueError) as error:
        logger.warning("adapters cannot be compared with the modules of the base: %s", error)
        return BaseModules()
    packed = sum(shape is None for shape in base.shapes.values())
    fields = {"modules": len(base.shapes), "comparedByNameOnly": packed}
    logger.info("adapters are compared with the base", extra={"fields": fields})
    return base


def base_template_kwargs(model: Path) -> dict[str, JsonValue]:
    """What prompts to a tuned model that is served as a base pass to its template; {} for other bases."""
    try:
        manifest = ModelManifest.model_validate_json((model / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return {}
    return manifest.chat_template_kwargs


async def _drain(book: Book, ledger: Ledger, limit: float) -> None:
    logger.info("stopping: finishing the requests in flight")
    book.closing = True
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await asyncio.sleep(LAME_DUCK_SECONDS)
            await ledger.idle()


async def _listen(stack: AsyncExitStack, app: web.Application, host: str, port: int) -> None:
    # Cancelling the handler when the client leaves is what stops the engine from generating for nobody.
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=5.0,
        keepalive_timeout=CLIENT_IDLE_SECONDS,
        read_bufsize=_READ_BUFFER,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()
