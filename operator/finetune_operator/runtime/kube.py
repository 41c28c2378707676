"""The API server over aiohttp: one pool of connections, raw dictionaries, errors as ApiError."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from finetune_operator.core.actions import Manifest
from finetune_operator.runtime.client import ApiError, Object, Page
from finetune_operator.runtime.configuration import Configuration
from finetune_operator.runtime.resources import Resource

FIELD_MANAGER = "finetune-operator"
PAGE = 200
REQUESTS_AT_ONCE = 32
TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=5.0)
WATCH_SECONDS = 300
# The server sends a bookmark about every minute, so a silent stream is a dead one.
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=150.0)
ATTEMPTS_WHEN_THROTTLED = 4
LONGEST_PAUSE_SECONDS = 30.0
TOKEN_SECONDS = 30.0  # service account tokens are rotated on disk long before they expire
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True)
class Request:
    """One request; `query` and `body` as they are sent."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Manifest | None = None
    content_type: str = "application/json"
    accept: str = "application/json"


def always() -> None:
    """The fence of a process that has no rival."""


class KubernetesApi:
    """`Api` over one pool of connections; made and closed in a running loop.

    `observe(verb, status)` is called after every request. `fence` is called right before a write is sent and
    raises ApiError when this process may not write any more.
    """

    def __init__(
        self,
        configuration: Configuration,
        observe: Callable[[str, int], None],
        fence: Callable[[], None] = always,
    ):
        self._configuration = configuration
        self._observe = observe
        self._fence = fence
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=configuration.ssl_context()),
            timeout=TIMEOUT,
            proxy=_proxy(configuration.url),
            headers={"User-Agent": FIELD_MANAGER, "Accept-Encoding": "identity"},
        )
        self._slots = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._token: str | None = None
        self._token_until = float("-inf")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object, None when there is none."""
        return await self._found("get", resource.path(namespace, name))

    async def document(self, path: str) -> Object | None:
        """What the server says at a path of its own, None when there is nothing."""
        return await self._found("discover", path)

    async def list_all(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> tuple[list[Object], str]:
        """All matching objects, read in pages, and the resourceVersion to watch from."""
        return await _together(self.pages(resource, namespace, selector))

    async def pages(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        """As `list_all`, page by page: thousands of objects are not held at the same time."""
        # The server leaves these two out of the items of a list.
        known = {"apiVersion": resource.api_version, "kind": resource.kind}
        async for page in self._pages(resource, namespace, selector, "application/json"):
            yield Page([{**known, **item} for item in page.items], page.version)

    async def list_metadata(self, resource: Resource, namespace: str | None) -> tuple[list[Object], str]:
        """As `list_all`, but nothing of the objects except their metadata."""
        return await _together(self._pages(resource, namespace, None, METADATA_ONLY))

    async def watch(
        self, resource: Resource, namespace: str | None, selector: str | None, version: str
    ) -> AsyncGenerator[Object, None]:
        """Watch events after `version`, bookmarks included, until the server ends the stream."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
            **({"labelSelector": selector} if selector else {}),
        }
        try:
            async with await self._send(
                Request("GET", resource.path(namespace), query), WATCH_TIMEOUT
            ) as answer:
                async for line in _lines(answer.content):
                    yield json.loads(line)
        except ApiError:
            raise
        except Exception as error:  # whatever ends a watch, its reflector starts the next one
            raise _unanswered(error) from error

    async def create(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """Create an object."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("create", Request("POST", resource.path(namespace), query, manifest))

    async def apply(self, resource: Resource, namespace: str, manifest: Manifest, *, force: bool) -> Object:
        """Server-side apply the full intent. `force` takes over fields that others have set (else 409)."""
        path = resource.path(namespace, manifest["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        request = Request("PATCH", path, query, manifest, "application/apply-patch+yaml")
        return await self._call("apply", request)

    async def patch(self, resource: Resource, namespace: str, name: str, body: Manifest) -> Object:
        """Merge-patch an object."""
        path, query = resource.path(namespace, name), {"fieldManager": FIELD_MANAGER}
        return await self._call("patch", Request("PATCH", path, query, body, "application/merge-patch+json"))

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        preconditions: Mapping[str, str],
        grace_seconds: int | None = None,
    ) -> None:
        """Delete an object in the background if it still has this uid and resourceVersion (409 otherwise);
        `grace_seconds` 0 removes a pod without waiting for its node.
        """
        grace = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        body = {
            **grace,
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": preconditions,
        }
        await self._call("delete", Request("DELETE", resource.path(namespace, name), {}, body))

    async def replace(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """PUT an object; 409 unless `metadata.resourceVersion` is the current one."""
        path = resource.path(namespace, manifest["metadata"]["name"])
        return await self._call("update", Request("PUT", path, {"fieldManager": FIELD_MANAGER}, manifest))

    async def replace_status(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """PUT the status; 409 unless `metadata.resourceVersion` is the current one."""
        path = resource.path(namespace, manifest["metadata"]["name"], "status")
        request = Request("PUT", path, {"fieldManager": FIELD_MANAGER}, manifest)
        return await self._call("update_status", request)

    async def _found(self, verb: str, path: str) -> Object | None:
        try:
            return await self._call(verb, Request("GET", path, {}))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _pages(
        self, resource: Resource, namespace: str | None, selector: str | None, accept: str
    ) -> AsyncGenerator[Page, None]:
        query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        while True:
            page = await self._call("list", Request("GET", resource.path(namespace), query, accept=accept))
            metadata = page["metadata"]
            yield Page(page["items"] or [], metadata["resourceVersion"])  # null in an empty list of metadata
            if not metadata.get("continue"):
                return
            query = {**query, "continue": metadata["continue"]}

    async def _call(self, verb: str, request: Request) -> Object:
        """One request, repeated while the server throttles it: it was not carried out then."""
        for attempt in range(1, ATTEMPTS_WHEN_THROTTLED + 1):
            try:
                return await self._once(verb, request)
            except ApiError as error:
                if error.status != 429 or attempt == ATTEMPTS_WHEN_THROTTLED:
                    raise
                pause = min(error.retry_after or 1.0, LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause * random.uniform(1.0, 1.2))  # noqa: S311
        raise AssertionError("the loop above returns or raises")

    async def _once(self, verb: str, request: Request) -> Object:
        status = 0
        try:
            async with self._slots, await self._send(request, TIMEOUT) as response:
                document: Object = json.loads(await response.read())
                status = response.status
                return document
        except ApiError as error:
            status = error.status
            raise
        except Exception as error:
            raise _unanswered(error) from error
        finally:
            self._observe(verb, status)

    async def _send(self, request: Request, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """The response once its headers are there; raises ApiError unless it is 2xx."""
        headers = {"Accept": request.accept, **await self._authorization()}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        if request.method != "GET":
            self._fence()
        response = await self._session.request(
            request.method,
            self._configuration.url + request.path,
            params=request.query,
            data=None if request.body is None else json.dumps(request.body).encode(),
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            server_hostname=self._configuration.server_name,
        )
        if 200 <= response.status <= 299:
            return response
        if response.status == 401:
            self._token_until = float("-inf")
        async with response:
            raise _refusal(response, await response.read())

    async def _authorization(self) -> dict[str, str]:
        if time.monotonic() >= self._token_until:
            self._token = await asyncio.to_thread(self._configuration.authorization)
            self._token_until = time.monotonic() + TOKEN_SECONDS
        return {} if self._token is None else {"Authorization": self._token}


def _proxy(url: str) -> str | None:
    """The proxy variables of the environment, which kopf obeys too; aiohttp would read them in a thread, for
    every request.
    """
    address = urlsplit(url)
    return None if proxy_bypass(address.netloc) else getproxies().get(address.scheme)


async def _together(pages: AsyncGenerator[Page, None]) -> tuple[list[Object], str]:
    items, version = list[Object](), ""
    async for page in pages:
        items += page.items
        version = page.version
    return items, version


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream; one of a watch holds a whole object, more than aiohttp's own limit."""
    buffer = bytearray()
    async for chunk in content.iter_any():
        buffer += chunk
        *complete, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for line in complete:
            if line.strip():
                yield bytes(line)


def _unanswered(error: Exception) -> ApiError:
    return ApiError(0, type(error).__name__, str(error))


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> ApiError:
    """Turn an answer into an error with the sentence of the server's Status object."""
    text = body.decode("utf-8", "replace")
    reason, message = str(response.reason), text[:500]
    try:
        status: Any = json.loads(text)
        reason, message = status.get("reason") or reason, status.get("message") or message
    except (ValueError, AttributeError):
        pass  # proxies answer in plain text
    return ApiError(response.status, reason, message, _retry_after(response.headers.get("Retry-After")))


def _retry_after(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdigit() else None
