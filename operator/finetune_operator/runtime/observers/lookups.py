"""Objects of users that runs and servers name: claims and source ConfigMaps, read rarely.

They carry no label of ours, so no watch of ours brings them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Generic, TypeVar

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import mapping
from finetune_operator.runtime.client import Api
from finetune_operator.runtime.resources import CLAIM, CONFIGMAP

FOUND_SECONDS = 60.0
ABSENT_SECONDS = 10.0  # somebody is about to create it
PURGE_SECONDS = 60.0
V = TypeVar("V")


class Expiring(Generic[V]):
    """Values by namespace and name, each kept for some seconds. What has expired takes no memory for long."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._values: dict[tuple[str, str], tuple[float, V]] = {}
        self._purge_at = clock() + PURGE_SECONDS

    def __len__(self) -> int:
        return len(self._values)

    async def get(
        self, namespace: str, name: str, read: Callable[[], Awaitable[V]], seconds: Callable[[V], float]
    ) -> V:
        """The value that is known, else what `read` returns; `seconds` says how long that is kept."""
        kept = self._values.get((namespace, name))
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        value = await read()
        self._values[namespace, name] = self._clock() + seconds(value), value
        self._purge()
        return value

    def _purge(self) -> None:
        """Now and then, since this goes through all values."""
        now = self._clock()
        if now >= self._purge_at:
            self._values = {key: entry for key, entry in self._values.items() if entry[0] > now}
            self._purge_at = now + PURGE_SECONDS


class Lookups:
    """Reads through `api` what was not read within the last minute; raises ApiError."""

    def __init__(self, api: Api, clock: Callable[[], float]):
        self._api = api
        self._claims: Expiring[Manifest | None] = Expiring(clock)
        self._keys: Expiring[frozenset[str]] = Expiring(clock)

    async def claims(self, namespace: str, names: Iterable[str]) -> Mapping[str, Manifest]:
        """The PersistentVolumeClaims of these names that exist."""
        wanted = sorted(set(names))
        found = await asyncio.gather(*(self._claim(namespace, name) for name in wanted))
        return {name: claim for name, claim in zip(wanted, found, strict=True) if claim is not None}

    async def configmaps(self, namespace: str, names: Iterable[str]) -> frozenset[str]:
        """Of these ConfigMaps those that exist (`name`) and their keys (`name/key`)."""
        found = await asyncio.gather(*(self._keys_of(namespace, name) for name in sorted(set(names))))
        return frozenset().union(*found)

    async def _claim(self, namespace: str, name: str) -> Manifest | None:
        def read() -> Awaitable[Manifest | None]:
            return self._api.get(CLAIM, namespace, name)

        return await self._claims.get(namespace, name, read, _lifetime)

    async def _keys_of(self, namespace: str, name: str) -> frozenset[str]:
        """The name and the keys. A ConfigMap may hold a megabyte, so its data are not kept."""

        async def read() -> frozenset[str]:
            found = await self._api.get(CONFIGMAP, namespace, name)
            if found is None:
                return frozenset()
            keys = [*mapping(found, "data"), *mapping(found, "binaryData")]
            return frozenset([name, *(f"{name}/{key}" for key in keys)])

        return await self._keys.get(namespace, name, read, _lifetime)


def _lifetime(value: Manifest | frozenset[str] | None) -> float:
    return FOUND_SECONDS if value else ABSENT_SECONDS
