"""A stand-in for the API server, for faults only: it fails on command, which the real one does not.

What the real one does is proven against the real one, in tests/faults/.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import web

from finetune_operator.runtime.configuration import Configuration
from finetune_operator.runtime.kube import KubernetesApi


class FaultyApiServer:
    """Objects by path; `faults` and `streams` are consumed one by one by the requests they match."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.seen: list[tuple[str, str]] = []
        self.headers: list[Mapping[str, str]] = []
        self.bodies: list[Any] = []
        self.faults: dict[tuple[str, str], deque[web.Response]] = defaultdict(deque)
        self.streams: deque[list[dict[str, Any] | bytes]] = deque()
        self.watch_faults: deque[web.Response] = deque()
        self.watched_from: list[str] = []
        self.all_streams_used = asyncio.Event()
        self.version = 100
        self.pruned: set[str] = set()  # fields of a status that the CRD does not have
        self.url = ""

    def fault(self, method: str, path: str, status: int, reason: str, **headers: str) -> None:
        """The next such request is answered with a Status object."""
        body = {"kind": "Status", "reason": reason, "message": f"{reason} on purpose", "code": status}
        self.faults[method, path].append(web.json_response(body, status=status, headers=headers))

    def put(self, path: str, **manifest: Any) -> dict[str, Any]:
        """Store an object under its path."""
        self.version += 1
        collection, name = path.rsplit("/", 1)
        del collection
        given = manifest.get("metadata", {})
        metadata = {"name": name, "namespace": "demo", "uid": f"uid-{name}", **given}
        self.objects[path] = {**manifest, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        return self.objects[path]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        self.seen.append((request.method, request.path))
        self.headers.append(request.headers)
        self.bodies.append(json.loads(await request.text() or "null"))
        if self.faults[request.method, request.path]:
            return self.faults[request.method, request.path].popleft()
        if request.query.get("watch"):
            return await self._watch(request)
        answer: web.Response = getattr(self, f"_{request.method.lower()}")(request)
        return answer

    def _get(self, request: web.Request) -> web.Response:
        if request.path in self.objects:
            return web.json_response(self.objects[request.path])
        items = [o for path, o in sorted(self.objects.items()) if path.rsplit("/", 1)[0] == request.path]
        if not items and "limit" not in request.query:
            return web.json_response({"reason": "NotFound", "message": "absent"}, status=404)
        start, limit = int(request.query.get("continue", 0)), 2
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"items": items[start : start + limit], "metadata": metadata})

    def _post(self, request: web.Request) -> web.Response:
        path = f"{request.path}/{self.bodies[-1]['metadata']['name']}"
        if path in self.objects:
            return web.json_response({"reason": "AlreadyExists", "message": "there"}, status=409)
        return web.json_response(self.put(path, **self.bodies[-1]), status=201)

    def _put(self, request: web.Request) -> web.Response:
        path = request.path.removesuffix("/status")
        known, sent = self.objects[path], self.bodies[-1]
        if known["metadata"]["resourceVersion"] != sent["metadata"]["resourceVersion"]:
            return web.json_response({"reason": "Conflict", "message": "changed"}, status=409)
        if path == request.path:
            return web.json_response(self.put(path, **sent))
        status = {name: value for name, value in sent["status"].items() if name not in self.pruned}
        if status == known.get("status"):
            return web.json_response(known)  # what changes nothing gets no new version
        return web.json_response(self.put(path, **{**known, "status": status}))

    def _patch(self, request: web.Request) -> web.Response:
        if request.path not in self.objects and "force" not in request.query:
            return web.json_response({"reason": "NotFound", "message": "absent"}, status=404)
        known = self.objects.get(request.path, {})
        there, asked = known.get("metadata", {}), self.bodies[-1].get("metadata", {})
        if there and asked.get("uid", there["uid"]) != there["uid"]:
            message = 'ConfigMap "c" is invalid: metadata.uid: Invalid value: "x": field is immutable'
            return web.json_response({"reason": "Invalid", "message": message}, status=422)
        if any(name in asked and asked[name] != there.get(name) for name in ("uid", "resourceVersion")):
            return web.json_response({"reason": "Conflict", "message": "changed"}, status=409)
        merged = {**known, **{k: v for k, v in self.bodies[-1].items() if k != "metadata"}}
        return web.json_response(self.put(request.path, **merged))

    def _delete(self, request: web.Request) -> web.Response:
        known = self.objects.get(request.path)
        if known is None:
            return web.json_response({"reason": "NotFound", "message": "absent"}, status=404)
        if any(known["metadata"][name] != v for name, v in self.bodies[-1]["preconditions"].items()):
            return web.json_response({"reason": "Conflict", "message": "another object"}, status=409)
        del self.objects[request.path]
        return web.json_response({"kind": "Status"})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self.watch_faults:
            return self.watch_faults.popleft()
        self.watched_from.append(request.query["resourceVersion"])
        if not self.streams:
            self.all_streams_used.set()
            await asyncio.Event().wait()
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for line in self.streams.popleft():
            await response.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        return response


@pytest.fixture
async def server() -> AsyncIterator[FaultyApiServer]:
    """The stand-in, listening."""
    stand_in = FaultyApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stand_in.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield stand_in
    await runner.cleanup()


@pytest.fixture
def requests() -> list[tuple[str, int]]:
    """What the client reported as (verb, status)."""
    return []


@pytest.fixture
async def api(server: FaultyApiServer, requests: list[tuple[str, int]]) -> AsyncIterator[KubernetesApi]:
    """The real client, pointed at the stand-in."""
    configuration = Configuration(server.url)
    client = KubernetesApi(configuration, lambda verb, status: requests.append((verb, status)))
    yield client
    await client.close()
