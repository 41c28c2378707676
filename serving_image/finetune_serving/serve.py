"""The gateway container: gateway (:8000) and agent (:8001) in one event loop, until SIGTERM."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram
from pydantic import JsonValue, ValidationError

from finetune_serving.adapter.base import read_base
from finetune_serving.agent.agent import Agent
from finetune_serving.agent.app import agent_app
from finetune_serving.agent.artifact import MANIFEST
from finetune_serving.agent.engine_client import EngineClient
from finetune_serving.agent.engine_watch import EngineWatch
from finetune_serving.agent.manifest import ManifestFile
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.steps import Places, Steps
from finetune_serving.documents import ModelManifest
from finetune_serving.fingerprint import base_fingerprint
from finetune_serving.gateway.app import Gateway
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Ledger
from finetune_serving.logs import configure
from finetune_serving.options import Options

logger = logging.getLogger(__name__)
# Clients with open connections are told to leave with each answer; idle ones get this long to send one.
LAME_DUCK_SECONDS = 2.0


def run_gateway(options: Options) -> int:
    """Serve until SIGTERM or SIGINT; exit code 1 when the base model folder cannot be read."""
    configure()
    try:
        fingerprint = base_fingerprint(options.model)
    except (OSError, ValueError) as error:
        logger.error("the base model cannot be read: %s", error)
        return 1
    logger.info("base model", extra={"fields": {"fingerprint": fingerprint}})
    asyncio.run(_until_signal(options, fingerprint))
    return 0


async def _until_signal(options: Options, fingerprint: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(options, fingerprint, stop)


async def serve(options: Options, fingerprint: str, stop: asyncio.Event) -> None:
    """Run both servers until `stop` is set or the agent fails, then let the requests in flight finish."""
    registry = CollectorRegistry()
    book, ledger, keys = Book(), Ledger(registry), KeyRing(options.keys)
    async with AsyncExitStack() as stack:
        # No connection is reused: the engine closes idle ones, and a request sent into that moment is lost.
        connector = aiohttp.UnixConnector(str(options.uds), limit=0, force_close=True)
        engine = await stack.enter_async_context(aiohttp.ClientSession("http://engine", connector=connector))
        agent = _agent(options, fingerprint, EngineClient(engine), registry, book, keys, ledger)
        gateway = Gateway(engine, book, keys, ledger, options.max_body_bytes)
        await _listen(stack, gateway.app(), options.host, options.port)
        await _listen(stack, agent_app(agent.state, registry), options.host, options.agent_port)
        work = asyncio.create_task(agent.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if work.done():
            logger.error("the agent failed; the process ends and is started again", exc_info=work.exception())
        await _drain(book, ledger, options.drain_seconds)
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work  # raises what the agent failed with: that is the process's own failure


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
    kwargs, modules = base_template_kwargs(options.model), read_base(options.model)
    return Limits(fingerprint, options.max_lora_rank, published, kwargs, modules)


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
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()
