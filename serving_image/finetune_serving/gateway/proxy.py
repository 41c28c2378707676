"""Ask the engine for one answer and give it to the client, whole or as it is made."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus

import aiohttp
from aiohttp import web
from msgspec import Raw
from yarl import URL

from finetune_serving.gateway.answers import read_answer
from finetune_serving.gateway.ledger import Call, Ledger
from finetune_serving.gateway.streams import pass_on

VERSION_HEADER = "x-finetune-version"
SCORING_HEADER = "x-finetune-scoring"
REQUEST_ID_HEADER = "x-request-id"
# vLLM joins its spans to the caller's by these.
_TRACE_HEADERS = ("traceparent", "tracestate")
_RETURNED_HEADERS = ("Content-Type", "Retry-After", VERSION_HEADER)
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
# A generation may take as long as it takes; only an engine that does not accept the connection is late.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5)
_UNKNOWN_VERSION = frozenset({HTTPStatus.NOT_FOUND})
# What vLLM (and another gateway) says of a name that it may learn later; any other 404 is the answer.
_UNKNOWN_MODEL = re.compile(rb"The model `[^`]*` does not exist")
_DEAD = b"EngineCore encountered an issue"  # vLLM's EngineDeadError


class EngineGoneError(Exception):
    """The engine did not answer, and nothing has been sent to the client yet."""


class NotBegunError(EngineGoneError):
    """The engine cannot have begun with the request: it took no connection, or does not know the version.

    `lasting` is why waiting will not help, if it will not.
    """

    def __init__(self, lasting: str = "") -> None:
        super().__init__(lasting)
        self.lasting = lasting


@dataclass(frozen=True)
class Outgoing:
    """A request as the engine (or another replica) gets it.

    `hides_usage`: the client did not ask for a stream's tokens. `own`: what it sent in the fields that we
    set, None for nothing. `not_begun`: the codes by which the other
    side says that it has not begun; a 404 does only when it is about the model.
    """

    to: aiohttp.ClientSession
    url: URL
    content: bytes
    headers: Mapping[str, str]
    hides_usage: bool = False
    own: Mapping[str, Raw | None] = field(default_factory=dict)
    not_begun: frozenset[int] = _UNKNOWN_VERSION


def request_id(headers: Mapping[str, str]) -> str:
    """The caller's x-request-id, or a new one for a caller that sent none or one that no log should hold."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def engine_headers(headers: Mapping[str, str], call: Call) -> dict[str, str]:
    """The headers that go to the engine; the caller's key is none of them."""
    traced = call.trace or {name: headers[name] for name in _TRACE_HEADERS if name in headers}
    return {"Content-Type": "application/json", REQUEST_ID_HEADER: call.request_id, **traced}


async def forward(request: web.Request, outgoing: Outgoing, call: Call, ledger: Ledger) -> web.StreamResponse:
    """The answer to a request; EngineGoneError when nothing has been sent to the client yet.

    If the handler is cancelled because the client left, leaving the upstream context closes that
    connection, and the engine stops generating.
    """
    async with await send(outgoing) as upstream:
        if upstream.status in outgoing.not_begun and await _refuses(upstream):
            raise NotBegunError
        headers = {name: upstream.headers[name] for name in _RETURNED_HEADERS if name in upstream.headers}
        headers |= {"Cache-Control": "no-cache"} | ({VERSION_HEADER: call.version} if call.version else {})
        if upstream.content_type == "text/event-stream":
            hides = outgoing.hides_usage
            return await pass_on(request, upstream, headers, call, ledger, hides_usage=hides)
        content = await whole(upstream)
        ledger.heard(call)
        if upstream.status == 200:  # any other code says what it is
            call.take(read_answer(content))
        return web.Response(status=upstream.status, body=content, headers=headers)


async def _refuses(upstream: aiohttp.ClientResponse) -> bool:
    """Whether an answer of these codes says that nothing has begun; any other 404 is the client's."""
    if upstream.status != HTTPStatus.NOT_FOUND:
        return True
    return _UNKNOWN_MODEL.search(await whole(upstream)) is not None


async def send(outgoing: Outgoing) -> aiohttp.ClientResponse:
    """The head of the answer.

    A pooled connection that breaks before it was usually closed by the engine while idle, so the request is
    sent once more; not oftener, since it may also be what ends the engine.
    """
    try:
        return await _post(outgoing)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotBegunError from error
    except (aiohttp.ClientError, OSError):
        pass
    try:
        return await _post(outgoing)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise EngineGoneError from error


async def _post(outgoing: Outgoing) -> aiohttp.ClientResponse:
    content, headers = outgoing.content, outgoing.headers
    return await outgoing.to.post(outgoing.url, data=content, headers=headers, timeout=_TIMEOUT)


@cache
def engine_url(path: str) -> URL:
    """The address of one of the engine's routes; parsing it takes longer than all of our own headers."""
    return URL("http://engine" + path)


async def whole(upstream: aiohttp.ClientResponse) -> bytes:
    """A whole answer; EngineGoneError for one that breaks off or says that the engine's core is dead."""
    try:
        content = await upstream.read()
    except (aiohttp.ClientError, OSError) as error:
        raise EngineGoneError from error
    if upstream.status == 500 and _DEAD in content:
        raise EngineGoneError
    return content
