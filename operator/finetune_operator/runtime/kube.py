"""The API server through the `kubernetes` client: its configuration and connection pool, raw dictionaries.

The client is synchronous, so requests run in a bounded pool of threads and every watch has its own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from finetune_operator.core.actions import Manifest
from finetune_operator.runtime.client import ApiError, Object
from finetune_operator.runtime.resources import Resource

FIELD_MANAGER = "finetune-operator"
PAGE = 500
WATCH_SECONDS = 300
# The server sends a bookmark every minute, so a silent stream is a dead one.
WATCH_SILENCE_SECONDS = 75.0
TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)
ATTEMPTS_WHEN_THROTTLED = 4
log = logging.getLogger(__name__)


def load_configuration(kubeconfig: Path | None) -> Any:
    """The `kubernetes` Configuration of a kubeconfig file, else of the pod's service account."""
    configuration = kubernetes_client.Configuration()
    if kubeconfig is not None:
        kubernetes_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    else:
        kubernetes_config.load_incluster_config(client_configuration=configuration)
    return configuration


def authorization(configuration: Any) -> str | None:
    """The current Authorization header; reads a rotated service account token again."""
    setting = configuration.auth_settings().get("BearerToken")
    return None if setting is None else str(setting["value"]).strip()


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: Manifest | None = None
    content_type: str = "application/json"


class KubernetesApi:
    """`Api` over one connection pool. `observe(verb, status)` is called after every request."""

    def __init__(self, configuration: Any, observe: Callable[[str, int], None], threads: int = 8):
        configuration.connection_pool_maxsize = threads + 8  # the watches hold connections of their own
        self._configuration = configuration
        self._pool = kubernetes_client.ApiClient(configuration).rest_client.pool_manager
        if not configuration.verify_ssl:
            log.warning("the certificate of the API server is not verified, as the kubeconfig asks")
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # else one per request
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="api")
        self._observe = observe

    def close(self) -> None:
        """Drop what is queued; requests in flight end with their timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object, None when there is none."""
        try:
            return await self._call("get", _Request("GET", resource.path(namespace, name), {}))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list_all(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> tuple[list[Object], str]:
        """All matching objects, read in pages, and the resourceVersion to watch from."""
        query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        items: list[Object] = []
        while True:
            page = await self._call("list", _Request("GET", resource.path(namespace), query))
            # The server leaves these two out of the items of a list.
            items += [{"apiVersion": resource.api_version, "kind": resource.kind, **i} for i in page["items"]]
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return items, metadata["resourceVersion"]
            query = {**query, "continue": metadata["continue"]}

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
        stream = _Stream(self, _Request("GET", resource.path(namespace), query))
        stream.start()
        try:
            while (event := await stream.next()) is not None:
                yield event
        finally:
            stream.stop()

    async def create(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """Create an object."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("create", _Request("POST", resource.path(namespace), query, manifest))

    async def apply(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """Server-side apply the full intent, taking over fields that others have set."""
        path = resource.path(namespace, manifest["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._call(
            "apply", _Request("PATCH", path, query, manifest, "application/apply-patch+yaml")
        )

    async def patch(self, resource: Resource, namespace: str, name: str, body: Manifest) -> Object:
        """Merge-patch an object."""
        path, query = resource.path(namespace, name), {"fieldManager": FIELD_MANAGER}
        request = _Request("PATCH", path, query, body, "application/merge-patch+json")
        return await self._call("patch", request)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Delete an object in the background if it still has this uid (409 otherwise)."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        await self._call("delete", _Request("DELETE", resource.path(namespace, name), {}, body))

    async def replace_status(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """PUT the status; 409 unless `metadata.resourceVersion` is the current one."""
        path = resource.path(namespace, manifest["metadata"]["name"], "status")
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("update_status", _Request("PUT", path, query, manifest))

    async def kinds(self, api_version: str) -> frozenset[str]:
        """The plurals that the server knows in an API version; empty when it knows none."""
        prefix = "/apis/" if "/" in api_version else "/api/"
        try:
            found = await self._call("discover", _Request("GET", prefix + api_version, {}))
        except ApiError as error:
            if error.status == 404:
                return frozenset()
            raise
        return frozenset(resource["name"] for resource in found["resources"])

    async def _call(self, verb: str, request: _Request) -> Object:
        """One request, repeated when the server throttles it: it then has not been carried out."""
        for attempt in range(1, ATTEMPTS_WHEN_THROTTLED + 1):
            try:
                return await self._once(verb, request)
            except ApiError as error:
                if error.status != 429 or attempt == ATTEMPTS_WHEN_THROTTLED:
                    raise
                pause = min(error.retry_after or 1.0, 30.0)
                await asyncio.sleep(pause * random.uniform(1.0, 1.2))  # noqa: S311
        raise AssertionError("the loop above returns or raises")

    async def _once(self, verb: str, request: _Request) -> Object:
        status = 0
        try:
            status, document = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._exchange, request
            )
            return document
        except ApiError as error:
            status = error.status
            raise
        finally:
            self._observe(verb, status)

    def _exchange(self, request: _Request) -> tuple[int, Object]:
        response = self.open(request, TIMEOUT, stream=False)
        return response.status, json.loads(response.data)

    def open(self, request: _Request, timeout: urllib3.Timeout, *, stream: bool) -> Any:
        """Send a request from a thread and return the response of the pool; raises ApiError unless 2xx."""
        headers = {"Accept": "application/json", "User-Agent": FIELD_MANAGER}
        token = authorization(self._configuration)
        if token is not None:
            headers["Authorization"] = token
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        url = self._configuration.host + request.path
        if request.query:
            url += "?" + urlencode(request.query)
        body = None if request.body is None else json.dumps(request.body)
        try:
            response = self._pool.request(
                request.method,
                url,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                preload_content=not stream,
            )
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, type(error).__name__, str(error)) from error
        if not 200 <= response.status <= 299:
            raise _refusal(response)
        return response


class _Stream:
    """A watch read by a daemon thread and handed to the loop line by line; None ends it."""

    def __init__(self, api: KubernetesApi, request: _Request):
        self._api = api
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Object | ApiError | None] = asyncio.Queue()
        self._response: Any = None
        self._stopped = False

    def start(self) -> None:
        """Start reading."""
        threading.Thread(target=self._read, name=f"watch {self._request.path}", daemon=True).start()

    async def next(self) -> Object | None:
        """The next event, None at the end of the stream; raises ApiError."""
        item = await self._events.get()
        if isinstance(item, ApiError):
            raise item
        return item

    def stop(self) -> None:
        """Wake the thread out of its read; it may have ended already."""
        self._stopped = True
        if self._response is not None:
            with contextlib.suppress(Exception):  # whatever a half-closed socket says is of no use
                self._response.shutdown()

    def _read(self) -> None:
        timeout = urllib3.Timeout(connect=5.0, read=WATCH_SILENCE_SECONDS)
        try:
            self._response = self._api.open(self._request, timeout, stream=True)
            for line in _lines(self._response):
                if self._stopped:
                    return
                self._put(json.loads(line))
            self._put(None)
        except ApiError as error:
            self._put(error)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self._put(ApiError(0, type(error).__name__, str(error)))
        finally:
            if self._response is not None:
                self._response.close()

    def _put(self, item: Object | ApiError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._events.put_nowait, item)


def _lines(response: Any) -> Any:
    buffer = bytearray()
    for chunk in response.stream(65536, decode_content=True):
        buffer += chunk
        *complete, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        yield from (line for line in complete if line.strip())


def _refusal(response: Any) -> ApiError:
    """Turn an answer into an error with the sentence of the server's Status object."""
    text = response.data.decode("utf-8", "replace")
    reason, message = str(response.reason), text[:500]
    try:
        status = json.loads(text)
        reason, message = status.get("reason") or reason, status.get("message") or message
    except (ValueError, AttributeError):
        pass  # proxies answer in plain text
    return ApiError(response.status, reason, message, _retry_after(response.headers.get("Retry-After")))


def _retry_after(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdigit() else None
