"""Watches Kueue's Workloads where the API server serves them, and asks for nothing of Kueue's elsewhere.

A Kueue that is broken, or that we may not read, is the trouble of queued runs and of nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import controller_uid, items, text, uid_of
from finetune_operator.runtime.cache.reflector import Reflector, Watched
from finetune_operator.runtime.cache.store import Store, Workloads
from finetune_operator.runtime.client import Api, ApiError
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import KUEUE, workloads

LOOK_SECONDS = 60.0
"""How often it is asked whether Kueue has been installed."""
_OF_A_JOB = "kueue.x-k8s.io/job-uid"


class WorkloadReflector(Reflector):
    """While Workloads are not served its store is empty, and complete."""

    required = False

    def __init__(
        self,
        api: Api,
        namespace: str | None,
        store: Workloads,
        on_change: Callable[[Manifest, bool], None],
        clock: Callable[[], float],
        metrics: Metrics,
    ):
        # Which version is served is found out before each list.
        watched = Watched(workloads(KUEUE), namespace, _OF_A_JOB, store)
        super().__init__(api, watched, on_change, clock, metrics)
        self._workloads = store

    async def _list(self) -> None:
        """A watch of what is no longer served ends in an error, so every change comes through here."""
        try:
            await self._list_served()
        except ApiError as error:
            self._workloads.problem = error.message
            # Until an answer has come no run is told that there is no Kueue.
            self._workloads.served |= not self.synced.is_set()
            raise
        self._workloads.problem = ""

    async def _list_served(self) -> None:
        while (version := await self._served()) is None:
            self._empty()
            await asyncio.sleep(LOOK_SECONDS)
        self._watched = replace(self._watched, resource=workloads(version))
        self._workloads.served = True
        await super()._list()

    async def _served(self) -> str | None:
        group = await self._api.document(f"/apis/{KUEUE}")
        return text(group, "preferredVersion", "groupVersion") or None

    def _empty(self) -> None:
        self._workloads.served, self._workloads.problem = False, ""
        for manifest in self.store.keep_only(()):
            self._on_change(manifest, True)
        self._touch()
        self.synced.set()


def job_of(workload: Manifest, jobs: Store) -> Manifest | None:
    """The Job of ours that a Workload was made of; None for other people's."""
    owners = items(workload, "metadata", "ownerReferences")
    name = next((text(owner, "name") for owner in owners if owner.get("kind") == "Job"), "")
    found = jobs.get(text(workload, "metadata", "namespace"), name)
    return found if found is not None and uid_of(found) == controller_uid(workload) else None
