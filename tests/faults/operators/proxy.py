"""An HTTP proxy between one operator and the API server: it counts, and it does what it is told to break.

What passes is sent as the service account of the chart, so the operator has the chart's rights and no others.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.faults.cluster.client import Client
from tests.faults.cluster.rbac import USER

HOP_BY_HOP = frozenset({"Connection", "Transfer-Encoding", "Content-Length", "Host", "Keep-Alive"})
PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity", "Impersonate-User": USER}


@dataclass(frozen=True)
class Call:
    """One request of the operator. `write` counts its writes from 1, 0 for a read; Leases are not counted."""

    method: str
    path: str
    write: int
    watch: bool
    content_type: str
    body: bytes

    @property
    def signature(self) -> str:
        """What sort of request it is, without names: `POST jobs`, `PUT finetunejobs/status`."""
        parts = self.path.split("?")[0].strip("/").split("/")
        rest = parts[parts.index("namespaces") + 2 :] if "namespaces" in parts else parts[-1:]
        return f"{self.method} {'/'.join(rest[:1] + rest[2:])}"


@dataclass(frozen=True)
class Reply:
    """What the operator gets."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Cut(Exception):
    """Close the connection without an answer."""


Forward = Callable[[], Awaitable[Reply]]


class Fault:
    """Passes everything on; what breaks something overrides one of the two."""

    async def exchange(self, call: Call, forward: Forward) -> Reply:
        """Answer one request; raise Cut to close its connection."""
        return await forward()

    async def stream(self, call: Call, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The lines of a watch."""
        async for line in lines:
            yield line


@dataclass(frozen=True)
class Write:
    """A write that reached the API server; `changed` is False when it stored what was there already."""

    signature: str
    path: str
    status: int
    changed: bool


class Proxy:
    """Listens on a port of its own: `async with Proxy(...) as proxy`, then use `proxy.url`.

    `begun` counts the writes that came, `renewals` those of Leases, `writes` are those that reached the server.
    """

    def __init__(self, upstream: Client, faults: Sequence[Fault] = ()):
        self._upstream = upstream
        self._faults = faults
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        self.url = ""
        self.begun = 0
        self.renewals = 0
        self.writes: list[Write] = []
        self.last_write = time.monotonic()

    async def __aenter__(self) -> Proxy:
        """Start listening."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = await self._read(request)
        try:
            if call.watch:
                return await self._stream(request, call)
            reply = await self._through(call, list(self._faults))
            return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
        except (Cut, aiohttp.ClientError, OSError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

    async def _read(self, request: web.BaseRequest) -> Call:
        of_lease = "/leases" in request.path
        counted = request.method != "GET" and not of_lease
        self.begun += counted
        self.renewals += request.method != "GET" and of_lease
        watch = "watch=true" in request.query_string or request.query.get("watch") == "1"
        number = self.begun if counted else 0
        content_type = request.headers.get("Content-Type", "application/json")
        return Call(request.method, request.path_qs, number, watch, content_type, await request.read())

    async def _through(self, call: Call, faults: list[Fault]) -> Reply:
        if not faults:
            return await self._forward(call)
        return await faults[0].exchange(call, lambda: self._through(call, faults[1:]))

    async def _forward(self, call: Call) -> Reply:
        headers = {**PLAIN, "Content-Type": call.content_type}
        url = self._upstream.url + call.path
        async with self._upstream.session.request(
            call.method, url, data=call.body or None, headers=headers
        ) as answer:
            reply = Reply(answer.status, await answer.read(), _kept(answer.headers))
        if call.write:
            self.last_write = time.monotonic()
            self.writes.append(Write(call.signature, call.path, reply.status, _changed(call, reply)))
        return reply

    async def _stream(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        async def opened() -> Reply:
            return Reply(200, b"")

        for fault in self._faults:
            refused = await fault.exchange(call, opened)
            if refused.status != 200:
                return web.Response(status=refused.status, body=refused.body, headers=refused.headers)
        url = self._upstream.url + call.path
        async with self._upstream.session.get(url, headers=PLAIN, read_bufsize=2**22) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            lines: AsyncIterator[bytes] = aiter(answer.content)
            for fault in self._faults:
                lines = fault.stream(call, lines)
            async for line in lines:
                await response.write(line)
            return response


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key not in HOP_BY_HOP}


def _changed(call: Call, reply: Reply) -> bool:
    """Whether a replacement stored something new: the server keeps the version of what stays the same."""
    if call.method != "PUT" or reply.status != 200:
        return True
    return _version(call.body) != _version(reply.body)


def _version(body: bytes) -> str:
    return str(json.loads(body)["metadata"]["resourceVersion"])


def refusal(status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    """An answer as the API server writes its own."""
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
    document |= {"reason": reason, "message": message}
    return Reply(
        status, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})}
    )


async def never() -> Reply:
    """An answer that does not come while anybody waits."""
    await asyncio.sleep(3600)
    raise Cut
