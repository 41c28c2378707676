"""Compares our own objects with what the API server lists: what a watch failed to bring shows here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from finetune_operator.core.manifests import text
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.client import Api, ApiError
from finetune_operator.runtime.resources import OURS, Key, Resource

COMPARE_SECONDS = 300.0
# While a start or a change of leader waits for the watches.
LOOK_SECONDS = 0.1
LOOKS_PER_LIST = 50
RETRY_SECONDS = 2.0
log = logging.getLogger(__name__)


class RestoredError(Exception):
    """The API server is older than what it told before: nothing that is cached can be compared with it."""


class Listing:
    """Lists the metadata of our objects. `changed` queues what turns out to be gone and who named it."""

    def __init__(self, api: Api, owners: Owners, namespace: str | None, changed: Callable[[Key], None]):
        self._api = api
        self._owners = owners
        self._namespace = namespace
        self._changed = changed

    async def run(self) -> None:
        """Compare now and then, forever. Raises RestoredError."""
        while True:
            await asyncio.sleep(COMPARE_SECONDS)
            await self._compare()

    async def caught_up(self) -> None:
        """Wait until the watches have brought every object as it now is. Nothing may be decided before that:
        what an earlier leader wrote last, such as an attempt, must be known.
        """
        while True:
            if await self._compare():
                for _ in range(LOOKS_PER_LIST):
                    if not self._owners.arrivals.owed():
                        return
                    await asyncio.sleep(LOOK_SECONDS)
            else:
                await asyncio.sleep(RETRY_SECONDS)

    async def _compare(self) -> bool:
        """Whether all kinds could be listed."""
        try:
            for resource in OURS:
                await self._compare_kind(resource)
        except ApiError as error:
            log.warning("objects not listed", extra={"error": str(error)})
            return False
        return True

    async def _compare_kind(self, resource: Resource) -> None:
        newest = self._owners.newest(resource.kind)
        found, at = await self._api.list_metadata(resource, self._namespace)
        if at.isdigit() and int(at) < newest:
            raise RestoredError(
                f"{resource.plural} are listed at resourceVersion {at}, but one of {newest} was seen before: "
                "etcd was restored from a backup. The operator starts again and reads everything anew."
            )
        versions = {_key(resource, entry): text(entry, "metadata", "resourceVersion") for entry in found}
        for key in self._owners.listed(resource.kind, versions, at):
            if await self._api.get(resource, key.namespace, key.name) is None:
                for other in {key, *self._owners.remove(key)}:
                    self._changed(other)


def _key(resource: Resource, entry: object) -> Key:
    return Key(resource.kind, text(entry, "metadata", "namespace"), text(entry, "metadata", "name"))
