"""Raw HTTP/1.1 clients: each sends its next request when the answer to the last one is whole."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

CHAT = "/v1/chat/completions"


@dataclass
class Result:
    """What a run saw: answers, events inside streams, seconds it took, latency of each answer (seconds)."""

    answers: int = 0
    events: int = 0
    failed: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)


def request(size: int, wanted: str = "now", *, stream: bool = False) -> bytes:
    """A chat request whose body has `size` bytes; `wanted` is what the engine should do."""
    streams = b"true" if stream else b"false"
    start = b'{"model":"base","stream":%s,"messages":[{"role":"user","content":"' % streams
    end = b'"}]}'
    body = start + b"word " * ((size - len(start) - len(end)) // 5) + end
    head = f"POST {CHAT} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
    return f"{head}x-request-id: {wanted}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Client(asyncio.Protocol):
    """One connection; `answered` is told each time an answer is whole, and decides what comes next."""

    def __init__(self, content: bytes, result: Result, answered: Callable[["Client"], None]) -> None:
        self.content = content
        self.result = result
        self.answered = answered
        self.buffer = b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast("asyncio.Transport", transport)
        self.ask()

    def ask(self) -> None:
        """Send one request."""
        self.sent = time.perf_counter()
        self.transport.write(self.content)

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self.buffer = self.buffer + data if self.buffer else data
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        if not blank or not _whole(head.lower(), body):
            return
        self.buffer = b""
        self.result.answers += 1
        self.result.failed += not head.startswith(b"HTTP/1.1 200")
        self.result.events += body.count(b'"delta"')
        self.result.latencies.append(time.perf_counter() - self.sent)
        self.answered(self)

    def connection_lost(self, error: Exception | None) -> None:
        """A connection that was lost in the middle of an answer is a failure."""
        self.result.failed += bool(self.buffer) or error is not None
        self.closed.set_result(None)


def _whole(head: bytes, body: bytes) -> bool:
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])


async def connect(address: str, make: Callable[[], Client]) -> Client:
    """A connection to `host:port` or to the path of a unix socket."""
    loop = asyncio.get_running_loop()
    if address.startswith("/"):
        return (await loop.create_unix_connection(make, address))[1]
    host, port = address.rsplit(":", 1)
    return (await loop.create_connection(make, host, int(port)))[1]


async def closed_loop(address: str, content: bytes, clients: int, seconds: float) -> Result:
    """As many requests as `clients` connections get answered one after the other."""
    result, began = Result(), time.perf_counter()

    def go_on(client: Client) -> None:
        if time.perf_counter() - began < seconds:
            client.ask()
        else:
            client.transport.close()

    open_clients = [await connect(address, lambda: Client(content, result, go_on)) for _ in range(clients)]
    await asyncio.gather(*(client.closed for client in open_clients))
    result.seconds = time.perf_counter() - began
    return result


async def at_rate(address: str, content: bytes, per_second: float, seconds: float) -> Result:
    """Requests at fixed times over kept connections, whether earlier ones are answered or not."""
    result, free = Result(), list[Client]()
    began = time.perf_counter()
    for number in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
        if free:
            free.pop().ask()
        else:
            await connect(address, lambda: Client(content, result, free.append))
    result.seconds = time.perf_counter() - began
    for client in free:
        client.transport.close()
    return result
