"""Kubernetes events about our objects. Equal events are one Event with a count, across restarts too."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.core.times import format_time
from finetune_operator.runtime.client import Api, ApiError, Json, Object
from finetune_operator.runtime.resources import EVENT

COMPONENT = "finetune-operator"
QUIET_SECONDS = 60.0  # a repeated event is written at most this often
REMEMBERED = 4096
WAITING = 5000
MESSAGE_BYTES = 1024  # the API server refuses longer ones

log = logging.getLogger(__name__)


@dataclass
class _Seen:
    count: int
    first: str
    written_at: datetime


@dataclass(frozen=True)
class _Event:
    """An event that waits to be written; `body` has everything but count and times."""

    namespace: str
    name: str
    body: Mapping[str, Json]


class Recorder:
    """Takes events at once and writes them behind the reconciles, which neither wait for them nor fail."""

    def __init__(self, api: Api, now: Callable[[], datetime]):
        self._api = api
        self._now = now
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._waiting: asyncio.Queue[_Event] = asyncio.Queue(WAITING)

    def record(self, owner: Object, event_type: str, reason: str, message: str) -> None:
        """Tell about `owner`; `event_type` is Normal or Warning. When too many wait it is only logged."""
        event = _event(owner, event_type, reason, message.encode()[:MESSAGE_BYTES].decode("utf-8", "ignore"))
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            log.warning("event not written: too many wait", extra={"reason": reason, "event": event.name})

    async def run(self) -> None:
        """Write what waits, forever."""
        while True:
            event = await self._waiting.get()
            try:
                await self._write(event)
            except ApiError as error:
                log.warning("event not written", extra={"event": event.name, "error": str(error)})
            finally:
                self._waiting.task_done()

    async def flushed(self) -> None:
        """Wait until no event waits."""
        await self._waiting.join()

    async def _write(self, event: _Event) -> None:
        now = self._now()
        seen = self._seen.get(event.name)
        if seen is None:
            await self._first(event)
            return
        seen.count += 1
        if (now - seen.written_at).total_seconds() < QUIET_SECONDS:
            return
        seen.written_at = now
        body = {"count": seen.count, "lastTimestamp": format_time(now)}
        try:
            await self._api.patch(EVENT, event.namespace, event.name, body)
        except ApiError as error:
            if error.status != 404:  # the server drops events after an hour
                raise
            await self._first(event)

    async def _first(self, event: _Event) -> None:
        now = self._now()
        count, first = 1, format_time(now)
        times = {"firstTimestamp": first, "lastTimestamp": first, "count": count}
        try:
            await self._api.create(EVENT, event.namespace, {**event.body, **times})
        except ApiError as error:
            if (error.status, error.reason) != (409, "AlreadyExists"):
                raise
            count, first = await self._fold(event, now)
        self._remember(event.name, _Seen(count, first, now))

    async def _fold(self, event: _Event, now: datetime) -> tuple[int, str]:
        """A process before this one wrote it: count on from there."""
        known = await self._api.get(EVENT, event.namespace, event.name) or {}
        count = int(known.get("count") or 1) + 1
        body = {"count": count, "lastTimestamp": format_time(now)}
        await self._api.patch(EVENT, event.namespace, event.name, body)
        return count, str(known.get("firstTimestamp") or format_time(now))

    def _remember(self, name: str, seen: _Seen) -> None:
        self._seen[name] = seen
        self._seen.move_to_end(name)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def _event(owner: Object, event_type: str, reason: str, message: str) -> _Event:
    metadata = owner["metadata"]
    namespace, name = metadata["namespace"], _event_name(owner, event_type, reason, message)
    body: Mapping[str, Json] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": metadata["name"],
            "namespace": namespace,
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": "",
        "type": event_type,
        "reason": reason,
        "message": message,
    }
    return _Event(namespace, name, body)


def _event_name(owner: Object, event_type: str, reason: str, message: str) -> str:
    metadata = owner["metadata"]
    text = "\n".join((metadata["uid"], event_type, reason, message))
    return f"{metadata['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
