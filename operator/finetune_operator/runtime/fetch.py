"""Reads the small JSON documents that our pods serve: /progress of a stage, /state of a serving pod."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp

TIMEOUT_SECONDS = 3.0
MAX_BYTES = 256 * 1024


class Fetch(Protocol):
    """Reads one JSON object from a pod; None when it cannot be had, whatever the cause."""

    async def __call__(self, address: str, port: int, path: str) -> Mapping[str, Any] | None:
        """Ask `http://address:port/path`."""
        ...


class PodReader:
    """`Fetch` over HTTP. Pods run code that users influence, so time and size are bounded."""

    def __init__(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        # No proxy from the environment: pod addresses are inside the cluster.
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def __call__(self, address: str, port: int, path: str) -> Mapping[str, Any] | None:
        """Ask `http://address:port/path`; redirects are not followed."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{port}{path}", allow_redirects=False) as response:
                if response.status != 200:
                    return None
                return _object(await _bounded(response))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        body += chunk
        if len(body) > MAX_BYTES:
            return b""
    return bytes(body)


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
