"""Keeps a store equal to what the API server has of one resource, by list and watch."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing

from finetune_operator.core.actions import Manifest
from finetune_operator.runtime.client import Api, ApiError, Object
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Resource
from finetune_operator.runtime.store import Store

FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 30.0

log = logging.getLogger(__name__)


class Reflector:
    """One resource, selected by label. `on_change` hears every object that is new, changed or gone."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        namespace: str | None,
        selector: str | None,
        store: Store,
        on_change: Callable[[Manifest], None],
        clock: Callable[[], float],
        metrics: Metrics,
    ):
        self.resource = resource
        self.store = store
        self.synced = asyncio.Event()
        self.fresh_at = clock()
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._on_change = on_change
        self._clock = clock
        self._metrics = metrics
        self._version = ""
        self._failures = 0

    async def run(self) -> None:
        """List, then watch, for ever. A lost connection resumes; anything else lists again."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                self._metrics.watch_restarted(self.resource.kind, "ended")
            except ApiError as error:
                await self._recover(error)

    async def _list(self) -> None:
        items, self._version = await self._api.list_all(self.resource, self._namespace, self._selector)
        for manifest in self.store.replace(items):
            self._on_change(manifest)
        self._touch()
        self.synced.set()
        log.info("listed", extra={"resource": self.resource.plural, "objects": len(self.store)})

    async def _watch(self) -> None:
        events = self._api.watch(self.resource, self._namespace, self._selector, self._version)
        async with aclosing(events) as stream:
            async for event in stream:
                self._take(event)

    def _take(self, event: Object) -> None:
        kind, manifest = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            raise ApiError(
                int(manifest.get("code") or 500), str(manifest.get("reason")), str(manifest.get("message"))
            )
        version = (manifest.get("metadata") or {}).get("resourceVersion")
        if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") or not version:
            raise ApiError(500, "BadWatchEvent", f"a watch of {self.resource.plural} brought type {kind!r}")
        self._version = version
        self._touch()
        if kind == "BOOKMARK":
            return
        self._keep(kind, manifest)
        self._on_change(manifest)

    def _keep(self, kind: str | None, manifest: Object) -> None:
        if kind == "DELETED":
            self.store.remove(manifest)
        else:
            self.store.put(manifest)

    def _touch(self) -> None:
        self.fresh_at = self._clock()
        self._failures = 0
        self._metrics.watch_alive(self.resource.kind)

    async def _recover(self, error: ApiError) -> None:
        """Forget the version unless only the connection failed: it may be too old, or from a lost etcd."""
        if error.status != 0:
            self._version = ""
        self._metrics.watch_restarted(self.resource.kind, "gone" if error.status == 410 else "error")
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 20), MAX_PAUSE_SECONDS)
        self._failures += 1
        fields = {"resource": self.resource.plural, "error": str(error), "retry_seconds": pause}
        log.warning("watch lost", extra=fields)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
