"""Keeps a store equal to what the API server has of one resource, by list and watch."""

from __future__ import annotations

import asyncio
import logging
import random
from asyncio import sleep
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import integer, mapping, text
from finetune_operator.runtime.cache.store import ObjectName, Store, object_name
from finetune_operator.runtime.client import Api, ApiError, Object
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Resource

FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 30.0
# A watch that ends sooner without having brought anything counts as failed: a server that is going down.
LASTING_SECONDS = 5.0
# After these the watch goes on from where it was; after any other error the version may be too old, or from
# an etcd that was restored, so everything is listed again.
RESUMABLE = frozenset({0, 429})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watched:
    """A resource, the objects of it that are selected by label, and where they are kept."""

    resource: Resource
    namespace: str | None
    selector: str | None
    store: Store


class Reflector:
    """`on_change` hears of what is new, changed or gone (True); `fresh_at` is when the watch last
    brought anything; `required` is whether nothing can be decided before it has listed.
    """

    required = True

    def __init__(
        self,
        api: Api,
        watched: Watched,
        on_change: Callable[[Manifest, bool], None],
        clock: Callable[[], float],
        metrics: Metrics,
    ):
        self.resource = watched.resource
        self.store = watched.store
        self.synced = asyncio.Event()
        self.fresh_at = clock()
        self._api = api
        self._watched = watched
        self._on_change = on_change
        self._clock = clock
        self._metrics = metrics
        self._version = ""
        self._failures = 0

    async def run(self) -> None:
        """List, then watch, forever."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiError as error:
                await self._recover(error)

    async def _list(self) -> None:
        watched, listed, version = self._watched, set[ObjectName](), ""
        async for page in self._api.pages(watched.resource, watched.namespace, watched.selector):
            version = page.version
            for manifest in page.items:
                listed.add(object_name(manifest))
                self._keep(manifest)
        for gone in self.store.keep_only(listed):
            self._on_change(gone, True)
        self._version = version
        self._touch()
        self.synced.set()
        log.info("listed", extra={"resource": self.resource.plural, "objects": len(self.store)})

    async def _watch(self) -> None:
        """Until the server ends the watch; soon after it began, that is an error like any other."""
        watched, begun = self._watched, self._clock()
        events = self._api.watch(watched.resource, watched.namespace, watched.selector, self._version)
        brought = 0
        async with aclosing(events) as stream:
            async for event in stream:
                self._take(event)
                brought += 1
        if not brought and self._clock() - begun < LASTING_SECONDS:
            raise ApiError(0, "EndedAtOnce", f"a watch of {self.resource.plural} ended at once")
        self._failures = 0
        self._metrics.watch_restarted(self.resource.kind, "ended")

    def _take(self, event: Object) -> None:
        kind, manifest = event.get("type"), mapping(event, "object")
        if kind == "ERROR":
            code = integer(manifest, "code") or 500
            raise ApiError(code, text(manifest, "reason"), text(manifest, "message"))
        version = text(manifest, "metadata", "resourceVersion")
        if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") or not version:
            raise ApiError(500, "BadWatchEvent", f"a watch of {self.resource.plural} brought type {kind!r}")
        self._version = version
        self._failures = 0
        self._touch()
        if kind == "DELETED":
            self.store.remove(manifest)
            self._on_change(manifest, True)
        elif kind != "BOOKMARK":
            self._keep(manifest)

    def _keep(self, manifest: Manifest) -> None:
        if self.store.put(manifest):
            self._on_change(manifest, False)

    def _touch(self) -> None:
        self.fresh_at = self._clock()

    async def _recover(self, error: ApiError) -> None:
        """Wait, longer after each failure in a row and at least as long as the server asks."""
        if error.status not in RESUMABLE:
            self._version = ""
        self._metrics.watch_restarted(self.resource.kind, "gone" if error.status == 410 else "error")
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 20), MAX_PAUSE_SECONDS)
        pause = max(pause * random.uniform(0.5, 1.0), error.retry_after or 0.0)  # noqa: S311
        self._failures += 1
        fields = {"resource": self.resource.plural, "error": str(error), "retry_seconds": pause}
        log.warning("watch lost", extra=fields)
        await sleep(pause)
