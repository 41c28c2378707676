"""A thin asynchronous client of the API server: raw dictionaries over a pool of connections."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from finetune_operator.runtime.resources import Resource

Object = dict[str, Any]
T = TypeVar("T")
CONNECTIONS = 16
MERGE = "application/merge-patch+json"


class RefusedError(Exception):
    """An answer other than 2xx."""


class Client:
    """Requests of the administrator; use it in `async with`."""

    def __init__(self, url: str, context: ssl.SSLContext):
        self._url = url
        self._context = context

    async def __aenter__(self) -> Client:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._context)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        # A line of a watch is a whole object, longer than aiohttp's default allows.
        self._session = aiohttp.ClientSession(
            self._url, connector=connector, timeout=timeout, read_bufsize=2**22
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def create(self, resource: Resource, namespace: str | None, body: Object) -> Object:
        """POST an object; returns it as stored."""
        return await self._send("POST", resource.path(namespace), body)

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: Object, part: str | None = None
    ) -> Object:
        """Merge-patch an object or its subresource `part`."""
        return await self._send("PATCH", resource.path(namespace, name, part), body, MERGE)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """One object."""
        return await self._send("GET", resource.path(namespace, name))

    async def delete_now(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete an object without a grace period; one that is gone already is fine."""
        path = resource.path(namespace, name) + "?gracePeriodSeconds=0"
        async with self._session.delete(path) as response:
            await response.read()

    async def list_all(
        self, resource: Resource, namespace: str | None, selector: str = ""
    ) -> tuple[list[Object], str]:
        """All objects and the version to watch from."""
        found = await self._send("GET", f"{resource.path(namespace)}?labelSelector={selector}")
        about = {"apiVersion": resource.api_version, "kind": resource.kind}
        return [{**about, **item} for item in found["items"]], found["metadata"]["resourceVersion"]

    async def count(self, resource: Resource) -> int:
        """How many objects there are."""
        found = await self._send("GET", resource.path(None) + "?limit=1")
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, selector: str = ""
    ) -> AsyncGenerator[Object, None]:
        """The events after `version`."""
        query = f"?watch=true&resourceVersion={version}&labelSelector={selector}"
        async with self._session.get(resource.path(namespace) + query) as response:
            async for line in response.content:
                yield json.loads(line)

    async def _send(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> Object:
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, path, data=data, headers=headers) as response:
            answer: Object = await response.json()
            if response.status >= 300:
                raise RefusedError(f"{method} {path}: {response.status} {answer.get('message')}")
            return answer


async def in_parallel(
    work: Callable[[T], Awaitable[Any]], items: Iterable[T], width: int = CONNECTIONS
) -> None:
    """Do the work for every item, `width` at a time."""
    left = iter(items)

    async def take() -> None:
        for item in left:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(take())
