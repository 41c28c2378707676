"""Kubernetes events about our objects. Equal events are one Event with a count, across restarts too."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.runtime.client import Api, ApiError, Object
from finetune_operator.runtime.resources import EVENT

COMPONENT = "finetune-operator"
QUIET_SECONDS = 60.0  # a repeated event is written at most this often
REMEMBERED = 4096
MESSAGE_BYTES = 1024  # the API server refuses longer ones

log = logging.getLogger(__name__)


@dataclass
class _Seen:
    count: int
    first: str
    written_at: datetime


class Recorder:
    """Writes events. A failure to write one is logged and never fails a reconcile."""

    def __init__(self, api: Api, now: Callable[[], datetime]):
        self._api = api
        self._now = now
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    async def record(self, owner: Object, kind: str, reason: str, message: str) -> None:
        """Tell about `owner`; `kind` is Normal or Warning."""
        message = message.encode()[:MESSAGE_BYTES].decode("utf-8", "ignore")
        name = _event_name(owner, kind, reason, message)
        try:
            await self._write(owner, name, kind, reason, message)
        except ApiError as error:
            log.warning("event not written", extra={"reason": reason, "error": str(error)})

    async def _write(self, owner: Object, name: str, kind: str, reason: str, message: str) -> None:
        now, namespace = self._now(), owner["metadata"]["namespace"]
        seen = self._seen.get(name)
        if seen is None:
            await self._first(owner, name, kind, reason, message)
            return
        seen.count += 1
        if (now - seen.written_at).total_seconds() < QUIET_SECONDS:
            return
        seen.written_at = now
        body = {"count": seen.count, "lastTimestamp": _stamp(now)}
        try:
            await self._api.patch(EVENT, namespace, name, body)
        except ApiError as error:
            if error.status != 404:  # the server drops events after an hour
                raise
            await self._first(owner, name, kind, reason, message)

    async def _first(self, owner: Object, name: str, kind: str, reason: str, message: str) -> None:
        now, namespace = self._now(), owner["metadata"]["namespace"]
        count, first = 1, _stamp(now)
        body = _event(owner, name, first)
        body |= {"type": kind, "reason": reason, "message": message, "count": count}
        try:
            await self._api.create(EVENT, namespace, body)
        except ApiError as error:
            if (error.status, error.reason) != (409, "AlreadyExists"):
                raise
            count, first = await self._fold(namespace, name, now)
        self._remember(name, _Seen(count, first, now))

    async def _fold(self, namespace: str, name: str, now: datetime) -> tuple[int, str]:
        """An operator before this one wrote it: count on from there."""
        known = await self._api.get(EVENT, namespace, name) or {}
        count = int(known.get("count") or 1) + 1
        await self._api.patch(EVENT, namespace, name, {"count": count, "lastTimestamp": _stamp(now)})
        return count, str(known.get("firstTimestamp") or _stamp(now))

    def _remember(self, name: str, seen: _Seen) -> None:
        self._seen[name] = seen
        self._seen.move_to_end(name)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def _event(owner: Object, name: str, stamp: str) -> dict[str, Any]:
    metadata = owner["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": "",
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
    }


def _event_name(owner: Object, kind: str, reason: str, message: str) -> str:
    metadata = owner["metadata"]
    text = "\n".join((metadata["uid"], kind, reason, message))
    return f"{metadata['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _stamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
