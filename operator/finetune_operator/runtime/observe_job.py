"""Observes a FineTuneJob: its Jobs and pods, what it names, and the progress of its running stage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.core import manifests
from finetune_operator.core.actions import Manifest
from finetune_operator.core.sources import Source, SourceError, parse_source
from finetune_operator.render.names import workspace_name
from finetune_operator.runtime.client import Api, Object
from finetune_operator.runtime.fetch import Fetch
from finetune_operator.runtime.resources import CLAIM, CONFIGMAP, FINETUNEJOB, JOB, POD
from finetune_operator.runtime.stores import Stores
from finetune_operator.stages.observed import Observed

PROGRESS_PORT = 8080
CONFIGMAP_SECONDS = 60.0
FINAL = frozenset({"Succeeded", "Failed"})


@dataclass
class JobObserver:
    """Callable on the live object. What no decision may get wrong is read live, the rest from stores."""

    api: Api
    stores: Stores
    fetch: Fetch
    clock: Callable[[], float]
    progress_seconds: float
    _progress: dict[str, tuple[float, Mapping[str, Any] | None]] = field(default_factory=dict)
    _keys: dict[tuple[str, str], tuple[float, frozenset[str]]] = field(default_factory=dict)

    async def __call__(self, owner: Object) -> Observed:
        """Read everything that the plan for this run may look at; raises ApiError."""
        job = FineTuneJob.model_validate(owner)
        jobs = await self._jobs(job)
        pods = await self._pods(job, jobs)
        claims, configmaps, progress, runs = await asyncio.gather(
            self._claims(job), self._configmaps(job), self._running(job, pods), self._runs(job, jobs)
        )
        return Observed(job, jobs, pods, claims, configmaps, progress, runs)

    async def _jobs(self, job: FineTuneJob) -> Mapping[str, Manifest]:
        """The child Jobs. One that an open attempt needs and the store lacks is looked for live: the store
        may be behind, and a Job taken for deleted would be run a second time.
        """
        uid, namespace = job.metadata.uid, job.metadata.namespace
        found = {manifests.name_of(j): j for j in self.stores.jobs.owned_by(uid)}
        for name in self._open(job):
            if name not in found:
                live = await self.api.get(JOB, namespace, name)
                if live is not None and manifests.controller_uid(live) == uid:
                    found[name] = live
        return found

    async def _pods(
        self, job: FineTuneJob, jobs: Mapping[str, Manifest]
    ) -> Mapping[str, tuple[Manifest, ...]]:
        """The pods by Job. Those of an attempt whose Job just ended are read live: the pod's last words may
        travel behind the Job's, and the outcome is decided once.
        """
        found = dict(manifests.by_job(self.stores.pods.owned_by(job.metadata.uid)))
        for name in self._open(job):
            if name not in jobs or manifests.finished(jobs[name]):
                selector = f"{manifests.JOB_LABEL}={name}"
                pods, _ = await self.api.list_all(POD, job.metadata.namespace, selector)
                found[name] = tuple(pods)
        return found

    def _open(self, job: FineTuneJob) -> list[str]:
        return [attempt.job for attempt in job.status.attempts if attempt.state not in FINAL]

    async def _runs(self, job: FineTuneJob, jobs: Mapping[str, Manifest]) -> tuple[Manifest, ...]:
        """The runs of the namespace, for the calibration in the job.json of prepare: read once per attempt,
        while its Job is still suspended.
        """
        preparing = [a.job for a in job.status.attempts if a.stage == "prepare" and a.state not in FINAL]
        waiting = any(manifests.suspended(jobs[name]) for name in preparing if name in jobs)
        if not waiting or job.spec.suspend or job.spec.resources.gpu_type is None:
            return ()
        runs, _ = await self.api.list_all(FINETUNEJOB, job.metadata.namespace)
        return tuple(runs)

    async def _claims(self, job: FineTuneJob) -> Mapping[str, Manifest]:
        workspace = job.spec.workspace.claim_name if job.spec.workspace is not None else None
        sources = [source.claim for source in _sources(job) if source.claim is not None]
        names = [workspace or workspace_name(job), *sources]
        return await read_claims(self.api, job.metadata.namespace, names)

    async def _configmaps(self, job: FineTuneJob) -> frozenset[str]:
        names = sorted({source.name for source in _sources(job) if source.name is not None})
        found = [await self._configmap(job.metadata.namespace, name) for name in names]
        return frozenset().union(*found)

    async def _configmap(self, namespace: str, name: str) -> frozenset[str]:
        """The name and the keys. A ConfigMap may hold a megabyte, so one that exists is read rarely."""
        read_at, names = self._keys.get((namespace, name), (float("-inf"), frozenset()))
        if self.clock() - read_at < CONFIGMAP_SECONDS:
            return names
        self._keys.pop((namespace, name), None)
        found = await self.api.get(CONFIGMAP, namespace, name)
        if found is None:
            return frozenset()
        keys = [*(found.get("data") or {}), *(found.get("binaryData") or {})]
        names = frozenset([name, *(f"{name}/{key}" for key in keys)])
        self._keys[namespace, name] = self.clock(), names
        return names

    async def _running(
        self, job: FineTuneJob, pods: Mapping[str, tuple[Manifest, ...]]
    ) -> Mapping[str, Any] | None:
        """The progress of the open attempt, asked at most once per `progress_seconds`: every answer may
        change the status, and every change of the status reconciles again.
        """
        uid = job.metadata.uid
        rank0 = next((p for name in self._open(job) for p in pods.get(name, ()) if _is_rank0(p)), None)
        where = manifests.address(rank0) if rank0 is not None else None
        if where is None:
            self._progress.pop(uid, None)
            return None
        asked_at, progress = self._progress.get(uid, (float("-inf"), None))
        if self.clock() - asked_at >= self.progress_seconds:
            progress = await self.fetch(where, PROGRESS_PORT, "/progress")
            self._progress[uid] = self.clock(), progress
        return progress


async def read_claims(api: Api, namespace: str, names: Iterable[str]) -> Mapping[str, Manifest]:
    """The PersistentVolumeClaims of these names that exist."""
    wanted = sorted(set(names))
    found = await asyncio.gather(*(api.get(CLAIM, namespace, name) for name in wanted))
    return {name: claim for name, claim in zip(wanted, found, strict=True) if claim is not None}


def _is_rank0(pod: Manifest) -> bool:
    return manifests.label(pod, manifests.INDEX) in (None, "0") and not manifests.terminating(pod)


def _sources(job: FineTuneJob) -> list[Source]:
    spec = job.spec
    addresses = [spec.base_model.source, spec.dataset.source, spec.output.destination]
    if spec.evaluation is not None and spec.evaluation.dataset is not None:
        addresses.append(spec.evaluation.dataset.source)
    return [source for source in map(_parsed, addresses) if source is not None]


def _parsed(address: str) -> Source | None:
    """An address that is none is the plan's to explain, not a reason to stop observing."""
    try:
        return parse_source(address)
    except SourceError:
        return None
