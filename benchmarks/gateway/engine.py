"""An engine that answers at once: HTTP/1.1 with as little work per request as Python allows.

    python -m benchmarks.gateway.engine SOCKET|PORT

It listens on a unix socket, as the engine behind the gateway does, or on a port, which other routers need.

What it should do is said in `x-request-id`, which the gateway passes on: `stream-N` streams N events,
`hold` answers only when the client goes.
"""

import asyncio
import sys
from typing import cast

import uvloop

_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"base","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}'
)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"base","choices":'
    b'[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK = b"%x\r\n%s\r\n" % (len(_EVENT), _EVENT)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_TOKEN_SECONDS = 0.01
_STATIC = {
    b"/health": b"{}",
    b"/v1/models": b'{"object":"list","data":[{"id":"base","object":"model"}]}',
    b"/internal/engine": b'{"engineId":"benchmark","slots":3}',
    b"/internal/loras": b'{"engineId":"benchmark","loras":{},"resident":[]}',
}


class Engine(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.transport = cast("asyncio.Transport", transport)
        self.head = b""
        self.missing = 0

    def data_received(self, data: bytes) -> None:
        """Bodies are counted, not kept."""
        if self.missing:
            self.missing -= len(data)
        else:
            head, blank, body = (self.head + data).partition(b"\r\n\r\n")
            if not blank:
                self.head = head
                return
            self.head = head
            self.missing = int(_field(head.lower(), b"content-length:") or 0) - len(body)
        if self.missing <= 0:
            head, self.head, self.missing = self.head, b"", 0
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        wanted = _field(head.lower(), b"x-request-id:")
        if path in _STATIC:
            self.transport.write(_JSON % (len(_STATIC[path]), _STATIC[path]))
        elif wanted.startswith(b"stream-"):
            asyncio.get_running_loop().create_task(self._stream(int(wanted[7:])))
        elif wanted != b"hold":
            self.transport.write(_JSON % (len(_ANSWER), _ANSWER))

    async def _stream(self, count: int) -> None:
        """Events that come one by one, as from a model that makes 100 tokens per second and stream."""
        self.transport.write(_STREAM)
        for _ in range(count):
            self.transport.write(_CHUNK)
            await asyncio.sleep(_TOKEN_SECONDS)
        self.transport.write(_END)


def _field(head: bytes, name: bytes) -> bytes:
    start = head.find(name)
    return b"" if start < 0 else head[start + len(name) :].split(b"\r\n", 1)[0].strip()


async def _serve(where: str) -> None:
    loop = asyncio.get_running_loop()
    if where.isdigit():
        server = await loop.create_server(Engine, "127.0.0.1", int(where), backlog=2048)
    else:
        server = await loop.create_unix_server(Engine, where, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
