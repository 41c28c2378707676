"""Writes statuses: only what changes something, and what changes all the time only so often."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from finetune_operator.contracts.digests import digest_of
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import text
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.client import Api, Json, Object
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Key, own_resource

# These change with every look at a running stage. A thousand runs may not cost a thousand writes each time.
PACED = ("progress", "cost")
PACED_WRITES_PER_SECOND = 10.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Asked:
    """A status that was sent, and the resourceVersion that the object had afterwards."""

    version: str
    digest: str


class Pacer:
    """Gives every key a turn, so many per second, in the order in which they ask."""

    def __init__(self, per_second: float):
        self._interval = 1.0 / per_second
        self._free_at = float("-inf")
        self._turns: dict[Key, float] = {}

    def wait(self, key: Key, now: float) -> float:
        """Seconds until the turn of this key; 0 takes it."""
        if key not in self._turns:
            self._turns[key] = max(now, self._free_at)
            self._free_at = self._turns[key] + self._interval
        if self._turns[key] > now:
            return self._turns[key] - now
        del self._turns[key]
        return 0.0

    def forget(self, key: Key) -> None:
        """The key needs no turn any more."""
        self._turns.pop(key, None)


class StatusWriter:
    """PUTs a status over the object that it was computed from, with its resourceVersion as precondition."""

    def __init__(
        self,
        api: Api,
        owners: Owners,
        metrics: Metrics,
        clock: Callable[[], float],
        later: Callable[[Key, float], None],
    ):
        self._api = api
        self._owners = owners
        self._metrics = metrics
        self._clock = clock
        self._later = later
        self._pacer = Pacer(PACED_WRITES_PER_SECOND)
        self._asked: dict[Key, _Asked] = {}
        self._warned: set[Key] = set()

    async def write(self, key: Key, owner: Object, status: Manifest | None) -> bool:
        """Whether the stored object changed. Raises ApiError, 409 when `owner` is not current any more.

        A status that the server stored otherwise than it was sent (the CRD is older and lacks a field) is not
        sent again over the same object, or the two would write for ever.
        """
        if status is None:
            return False
        wanted, stored = without_nulls(status), without_nulls(owner.get("status") or {})
        asked = _Asked(text(owner, "metadata", "resourceVersion"), digest_of(wanted))
        if wanted == stored or self._asked.get(key) == asked or self._must_wait(key, wanted, stored):
            return False
        body = {part: owner[part] for part in ("apiVersion", "kind", "metadata")}
        answer = await self._api.replace_status(
            own_resource(key.kind), key.namespace, {**body, "status": wanted}
        )
        self._owners.rewritten(key, answer)
        self._pacer.forget(key)
        version = text(answer, "metadata", "resourceVersion")
        self._asked[key] = _Asked(version, asked.digest)
        self._look_for_losses(key, wanted, answer.get("status") or {})
        return version != asked.version

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._asked.pop(key, None)
        self._warned.discard(key)
        self._pacer.forget(key)

    def _must_wait(self, key: Key, wanted: Mapping[str, Json], stored: Mapping[str, Json]) -> bool:
        if not stored or _lasting(wanted) != _lasting(stored):
            return False
        seconds = self._pacer.wait(key, self._clock())
        if seconds:
            self._later(key, seconds)
        return seconds > 0

    def _look_for_losses(self, key: Key, sent: Mapping[str, Json], stored: Mapping[str, Json]) -> None:
        lost = sorted(set(lost_fields(sent, stored, "status")))
        if not lost:
            return
        self._metrics.pruned(key.kind)
        if key in self._warned:
            return
        self._warned.add(key)
        log.warning(
            "the API server dropped fields of a status: the CRD is older than this operator; apply its CRDs",
            extra={"kind": key.kind, "namespace": key.namespace, "object": key.name, "fields": lost},
        )


def _lasting(status: Mapping[str, Json]) -> Mapping[str, Json]:
    return {name: value for name, value in status.items() if name not in PACED}


def without_nulls(value: Mapping[str, Json]) -> dict[str, Json]:
    """A status as the API server stores it: without null fields, tuples as lists."""
    return {name: _plain(member) for name, member in value.items() if member is not None}


def _plain(value: Json) -> Json:
    if isinstance(value, Mapping):
        return without_nulls(value)
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    return value


def lost_fields(sent: Json, stored: Json, path: str) -> Iterator[str]:
    """The paths of what was sent and is not stored; members of lists are `[]`."""
    if isinstance(sent, Mapping) and isinstance(stored, Mapping):
        for name, value in sent.items():
            if name in stored:
                yield from lost_fields(value, stored[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(sent, (list, tuple)) and isinstance(stored, (list, tuple)):
        for one, other in zip(sent, stored, strict=False):
            yield from lost_fields(one, other, f"{path}[]")
