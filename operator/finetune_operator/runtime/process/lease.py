"""Leader election by a Lease, with the semantics of client-go.

A replica that does not lead looks at the Lease every two seconds and takes it once it has not changed for as
long as its holder promised. Times are never compared across machines: what counts is how long this process
has watched a record stay the same, on its own clock. The leader renews every two seconds and stops writing
ten seconds after the last renewal began, five before anybody may take the Lease from it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import integer, mapping, text
from finetune_operator.runtime.client import Api, ApiError, Object
from finetune_operator.runtime.resources import LEASE

LEASE_SECONDS = 15
RENEW_SECONDS = 10.0
RETRY_SECONDS = 2.0
REQUEST_SECONDS = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseName:
    """Where the Lease is, and what this process calls itself in it."""

    namespace: str
    name: str
    identity: str


class Elector:
    """`leading` is set while this process leads; `lost` is called once when it does not any more.

    `clock` has to go on while the machine sleeps. `api` must not be fenced by this elector.
    """

    def __init__(
        self,
        api: Api,
        lease: LeaseName,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        lost: Callable[[str], None],
    ):
        self.leading = asyncio.Event()
        self._api = api
        self._lease = lease
        self._clock = clock
        self._now = now
        self._lost = lost
        self._renewed_at = float("-inf")
        self._seen: Object | None = None
        self._seen_at = float("-inf")

    def fence(self) -> None:
        """Called before every write: raises ApiError unless the Lease is held now, by the clock."""
        if not self.leading.is_set() or self._clock() >= self._renewed_at + RENEW_SECONDS:
            raise ApiError(0, "NotLeading", "this replica does not hold the Lease, so it writes nothing")

    async def run(self) -> None:
        """Look until the Lease that was held is lost."""
        while await self.look():  # noqa: ASYNC110 - the server tells nobody that a lease has run out
            await asyncio.sleep(RETRY_SECONDS * random.uniform(1.0, 1.2))  # noqa: S311

    async def look(self) -> bool:
        """Take the Lease when it is free, renew it when it is ours; False once it is lost."""
        begun = self._clock()
        if await self._try():
            self._renewed_at = begun
            self._lead()
        elif self.leading.is_set() and self._is_lost():
            self.leading.clear()
            self._lost(f"the Lease {self._lease.name} was lost: another replica leads, or no renewal worked")
            return False
        return True

    async def release(self) -> None:
        """Let another replica lead at once; this one writes nothing any more."""
        if not self.leading.is_set() or self._seen is None:
            return
        self.leading.clear()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._write(
                    self._seen, {**self._record(self._seen), "holderIdentity": "", "leaseDurationSeconds": 1}
                )
            log.info("lease released")
        except (ApiError, TimeoutError) as error:
            log.warning("lease not released", extra={"error": str(error)})

    def _lead(self) -> None:
        if not self.leading.is_set():
            self.leading.set()
            log.info("leading", extra={"lease": self._lease.name, "identity": self._lease.identity})

    def _is_lost(self) -> bool:
        return self._holder() != self._lease.identity or self._clock() >= self._renewed_at + RENEW_SECONDS

    async def _try(self) -> bool:
        """Whether the Lease is ours now. A request that fails leaves that open until the next one."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._acquire_or_renew()
        except (ApiError, TimeoutError) as error:
            log.warning(
                "lease not renewed" if self.leading.is_set() else "lease not read",
                extra={"error": str(error)},
            )
            return False

    async def _acquire_or_renew(self) -> bool:
        found = await self._api.get(LEASE, self._lease.namespace, self._lease.name)
        if found is None:
            self._note(await self._api.create(LEASE, self._lease.namespace, self._new()))
            return True
        self._note(found)
        if not self._may_take():
            return False
        self._note(await self._write(found, self._record(found)))
        return True

    def _note(self, found: Object) -> None:
        """A record that has changed is alive from now on, whatever the times in it say."""
        if self._seen is None or mapping(self._seen, "spec") != mapping(found, "spec"):
            self._seen_at = self._clock()
        self._seen = found

    def _holder(self) -> str:
        return text(self._seen, "spec", "holderIdentity")

    def _may_take(self) -> bool:
        if self._holder() in ("", self._lease.identity):
            return True
        seconds = integer(self._seen, "spec", "leaseDurationSeconds") or LEASE_SECONDS
        return self._clock() >= self._seen_at + seconds

    async def _write(self, known: Object, record: Manifest) -> Object:
        """409 when the Lease has changed since it was read."""
        return await self._api.replace(LEASE, self._lease.namespace, {**known, "spec": record})

    def _new(self) -> Manifest:
        metadata = {"name": self._lease.name, "namespace": self._lease.namespace}
        record = self._record({})
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": record}

    def _record(self, known: Object) -> Manifest:
        spec, moment = mapping(known, "spec"), self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = text(spec, "holderIdentity") == self._lease.identity
        transitions = integer(spec, "leaseTransitions")
        return {
            **spec,
            "holderIdentity": self._lease.identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": spec.get("acquireTime") if ours else moment,
            "renewTime": moment,
            "leaseTransitions": (0 if transitions is None else transitions + (not ours)),
        }
