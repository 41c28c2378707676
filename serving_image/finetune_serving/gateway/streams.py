"""Pass an answer of events on while it is made, and read on the way what the metrics need."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping

import aiohttp
from aiohttp import web

from finetune_serving.gateway.answers import events, read_event
from finetune_serving.gateway.ledger import Call, Ledger

logger = logging.getLogger(__name__)
# A client that takes nothing for this long holds its version, and with it a slot of the engine.
WRITE_SECONDS = 60.0
# Below this much waiting (bytes), aiohttp never waits for the client.
_UNHINDERED = 32 * 1024


class BrokenOffError(Exception):
    """The engine ended an answer in the middle."""


async def pass_on(
    request: web.Request,
    upstream: aiohttp.ClientResponse,
    headers: Mapping[str, str],
    call: Call,
    ledger: Ledger,
    *,
    hides_usage: bool,
) -> web.StreamResponse:
    """Answer with the engine's events; without the last one about usage when only we asked for it.

    An answer that the engine breaks off is cut, not ended: ending it would make it look complete.
    """
    response = web.StreamResponse(status=upstream.status, headers=headers)
    await response.prepare(request)
    call.begun = True
    try:
        async for part in _parts(upstream, call, ledger, hides_usage=hides_usage):
            await _taken(request, response.write(part), len(part))
        await _taken(request, response.write_eof(), 0)
    except BrokenOffError:
        call.failed = True
        logger.warning("the engine broke off a stream", extra={"fields": {"version": call.version}})
        cut(request)
    return response


def cut(request: web.Request) -> None:
    """Close the connection of a client in the middle of its answer."""
    if request.transport is not None:
        request.transport.abort()


async def _parts(
    upstream: aiohttp.ClientResponse, call: Call, ledger: Ledger, *, hides_usage: bool
) -> AsyncIterator[bytes]:
    """The events to pass on, as many at a time as came together."""
    rest = b""
    try:
        async for chunk in upstream.content.iter_any():
            whole, rest = events(rest + chunk if rest else chunk)
            kept = []
            for event in whole:
                reading = read_event(event)
                call.take(reading)
                ledger.heard(call, token=reading.text)
                if not (hides_usage and reading.only_usage):
                    kept.append(event)
            if kept:
                yield b"".join(kept)
    except (aiohttp.ClientError, OSError) as error:
        raise BrokenOffError from error
    if rest:
        yield rest


async def _taken(request: web.Request, writing: Awaitable[None], size: int) -> None:
    """Write something of this size; ConnectionResetError for a client that takes nothing for long."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() + size < _UNHINDERED:
        await writing
        return
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await writing
    except TimeoutError:
        cut(request)
        raise ConnectionResetError("the client stopped reading") from None
