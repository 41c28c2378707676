"""Every revision that the API server stores, in the order of etcd, by namespace."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from tests.faults.cluster.client import WATCHED, ApiServerError, Client, Object

Name = tuple[str, str]


@dataclass(frozen=True)
class Revision:
    """One stored change of one object; `version` is etcd's, which all kinds share.

    `event` is a watch's ADDED, MODIFIED or DELETED, or LISTED: then earlier revisions may not have been seen.
    """

    version: int
    event: str
    manifest: Object

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.manifest["kind"])

    @property
    def name(self) -> Name:
        """Kind and name."""
        return self.kind, self.manifest["metadata"]["name"]


class History:
    """What happened in one namespace."""

    def __init__(self) -> None:
        self.revisions: list[Revision] = []
        self.objects: dict[Name, Object] = {}
        self._changed = asyncio.Event()

    def add(self, revision: Revision) -> None:
        """Remember a revision and wake who waits."""
        self.revisions.append(revision)
        if revision.event == "DELETED":
            self.objects.pop(revision.name, None)
        else:
            self.objects[revision.name] = revision.manifest
        self._changed.set()
        self._changed = asyncio.Event()

    def of(self, kind: str) -> list[Object]:
        """The objects of a kind as they are now, by name."""
        return [found for (other, _), found in sorted(self.objects.items()) if other == kind]

    def in_order(self) -> list[Revision]:
        """The revisions in etcd's order: the watches of two kinds are not synchronised with each other."""
        return sorted(self.revisions, key=lambda revision: revision.version)

    async def next(self) -> None:
        """Wait for the next revision."""
        await self._changed.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something is true of `objects`."""
        while True:
            if holds():
                return
            await self._changed.wait()


class Hub:
    """Watches all kinds of all namespaces from the start; `listen` hears each revision of a kind."""

    def __init__(self, client: Client):
        self._client = client
        self._histories: defaultdict[str, History] = defaultdict(History)
        self._listeners: defaultdict[str, list[Callable[[Revision], None]]] = defaultdict(list)

    def history(self, namespace: str) -> History:
        """The history of a namespace; ask for it at any time."""
        return self._histories[namespace]

    def forget(self, namespace: str) -> None:
        """Let go of a namespace whose play has been judged."""
        self._histories.pop(namespace, None)

    def listen(self, kind: str, listener: Callable[[Revision], None]) -> None:
        """Call `listener` for every revision of a kind."""
        self._listeners[kind].append(listener)

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as group:
            for resource in WATCHED:
                group.create_task(self._follow(resource.kind))

    async def _follow(self, kind: str) -> None:
        version = ""
        while True:
            try:
                version = version or await self._list(kind)
                async for event in self._client.watch(kind, version):
                    if event["type"] == "ERROR":
                        raise ApiServerError(event["object"].get("code", 500), event["object"])
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._take(Revision(int(version), event["type"], event["object"]))
            except ApiServerError as error:
                version = "" if error.status == 410 else version
                await asyncio.sleep(0.2)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.2)  # the API server is being restarted

    async def _list(self, kind: str) -> str:
        """After the start, and when the API server cannot go on from where a watch broke off."""
        items, version = await self._client.list(kind, None)
        listed = {item["metadata"]["uid"] for item in items}
        known = [found for history in self._histories.values() for found in history.of(kind)]
        for item in items:
            self._take(Revision(int(item["metadata"]["resourceVersion"]), "LISTED", item))
        for item in known:
            if item["metadata"]["uid"] not in listed:
                self._take(Revision(int(version), "DELETED", item))
        return version

    def _take(self, revision: Revision) -> None:
        self._histories[revision.manifest["metadata"].get("namespace", "")].add(revision)
        for listener in self._listeners[revision.kind]:
            listener(revision)
