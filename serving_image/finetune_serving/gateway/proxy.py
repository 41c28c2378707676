"""Forward one request to the engine and its answer back, unbuffered when it streams."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from aiohttp import web

from finetune_serving.gateway import errors
from finetune_serving.gateway.ledger import Call

logger = logging.getLogger(__name__)
VERSION_HEADER = "x-finetune-version"
# A generation may take as long as it takes; only an engine that does not accept the connection is late.
UPSTREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5)
_GONE = "The engine cannot answer right now; try again shortly."


class EngineGoneError(Exception):
    """The engine did not answer, or no longer knows a version it was asked for."""


async def forward(
    request: web.Request, engine: aiohttp.ClientSession, body: Mapping[str, Any], call: Call
) -> web.StreamResponse:
    """Ask the engine for `call.version`; EngineGoneError when nothing has been sent to the client yet.

    If the handler is cancelled because the client left, leaving the upstream context closes that
    connection, and the engine stops generating.
    """
    content = json.dumps({**body, "model": call.version}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        async with engine.post(
            request.path, data=content, headers=headers, timeout=UPSTREAM_TIMEOUT
        ) as upstream:
            if upstream.status == 404:
                raise EngineGoneError
            call.status = upstream.status
            if upstream.content_type == "text/event-stream":
                return await _stream(request, upstream, call)
            return await _whole(upstream, call)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise EngineGoneError from error


async def _whole(upstream: aiohttp.ClientResponse, call: Call) -> web.Response:
    content = await upstream.read()
    call.mark_byte()
    return web.Response(status=upstream.status, body=content, headers=_headers(upstream, call))


async def _stream(request: web.Request, upstream: aiohttp.ClientResponse, call: Call) -> web.StreamResponse:
    response = web.StreamResponse(status=upstream.status, headers=_headers(upstream, call))
    try:
        await response.prepare(request)
        async for chunk in _chunks(upstream, call):
            call.mark_byte()
            await response.write(chunk)
        if not call.failed:
            await response.write_eof()
    except ConnectionError:
        return response  # the client left; leaving the upstream context stops the engine
    except asyncio.CancelledError:
        if call.failed and request.transport is not None:
            request.transport.abort()  # its version has to go, and the client may not be reading
        raise
    if call.failed and request.transport is not None:
        # Half an answer is out. Ending it cleanly would make it look complete, so cut the connection.
        request.transport.abort()
    return response


async def _chunks(upstream: aiohttp.ClientResponse, call: Call) -> AsyncIterator[bytes]:
    """The engine's bytes as they come; an engine that breaks off marks the call as failed."""
    try:
        async for chunk in upstream.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError):
        call.failed = True
        logger.warning("the engine broke off a stream", extra={"fields": {"version": call.version}})


def _headers(upstream: aiohttp.ClientResponse, call: Call) -> dict[str, str]:
    headers = {"Content-Type": upstream.headers.get("Content-Type", "application/json")}
    return headers | {VERSION_HEADER: call.version, "Cache-Control": "no-cache"}


def gone() -> web.Response:
    """503: the engine is down or being restarted."""
    return errors.unavailable(_GONE)
