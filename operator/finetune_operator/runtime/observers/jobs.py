"""Observes a FineTuneJob: its Jobs and pods, what it names, and the progress of its running stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core import manifests
from finetune_operator.core.actions import Manifest
from finetune_operator.core.sources import Source, SourceError, parse_source
from finetune_operator.core.times import moment_of
from finetune_operator.render.names import workspace_name
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.cache.store import Stores, labelled_uid
from finetune_operator.runtime.client import Api, Object
from finetune_operator.runtime.observers.lookups import Lookups
from finetune_operator.runtime.observers.servers import first_problem
from finetune_operator.runtime.pods import SILENT, Answer, Poller
from finetune_operator.runtime.resources import JOB, POD, Key
from finetune_operator.stages.decision import ended
from finetune_operator.stages.observed import Observed

FINAL = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class JobObserver:
    """Caches, but what no decision may get wrong is read live: a Job that is missing, the pods of one that
    has ended, and those of one that is about to be given up.
    """

    api: Api
    owners: Owners
    stores: Stores
    lookups: Lookups
    poller: Poller
    now: Callable[[], datetime]
    _looked_at: dict[Key, frozenset[str]] = field(default_factory=dict)
    _behind: set[Key] = field(default_factory=set)
    """Runs of which the store was found to hold old pods; they are read live until it has caught up."""

    async def __call__(self, owner: Object) -> Observed:
        """Read everything that the plan for this run may look at; raises ApiError."""
        job = FineTuneJob.model_validate(owner)
        missing_never = self._recorded_just_now(job)
        jobs = await self._jobs(job, missing_never)
        pods = await self._pods(job, jobs, missing_never)
        answer, kueue = self._progress(job, pods), self.stores.workloads
        server, problem = self._server(job)
        return Observed(
            job=job,
            jobs=jobs,
            pods=pods,
            claims=await self._claims(job, jobs),
            configmaps=await self._configmaps(job),
            progress=answer.document,
            progress_at=answer.at,
            progress_failed=answer.failed,
            runs=self._runs(job, jobs),
            workloads=self._workloads(jobs),
            kueue=kueue.served,
            kueue_problem=kueue.problem,
            server=server,
            server_problem=problem,
        )

    def _server(self, job: FineTuneJob) -> tuple[ModelServer | None, str]:
        """The ModelServer that scores, or why one that exists cannot be read."""
        engine = job.spec.scoring_engine
        if engine is None:
            return None, ""
        found = self.owners.get(Key("ModelServer", job.metadata.namespace, engine.server_ref.name))
        try:
            return (None if found is None else ModelServer.model_validate(found)), ""
        except ValidationError as error:
            return None, f"ModelServer {engine.server_ref.name} cannot be read: {first_problem(error)}"

    def forget(self, key: Key) -> None:
        """The run is gone."""
        self._looked_at.pop(key, None)
        self._behind.discard(key)

    def _recorded_just_now(self, job: FineTuneJob) -> frozenset[str]:
        """The Jobs of attempts that this process recorded and did not look at since. Nothing can have run
        under these names before, so nothing is read live: creating such a Job once more changes nothing.
        """
        key = _key(job)
        names = frozenset(attempt.job for attempt in job.status.attempts)
        before = self._looked_at.get(key)
        self._looked_at[key] = names
        return frozenset() if before is None else names - before

    async def _jobs(self, job: FineTuneJob, never: frozenset[str]) -> Mapping[str, Manifest]:
        """The child Jobs. One that an open attempt needs and the store lacks is looked for live: the store
        may be behind, and a Job taken for deleted would be run a second time.
        """
        uid, namespace = job.metadata.uid, job.metadata.namespace
        found = {manifests.name_of(child): child for child in self.stores.jobs.owned_by(namespace, uid)}
        for attempt in _open(job):
            if attempt.job not in found and attempt.job not in never:
                live = await self.api.get(JOB, namespace, attempt.job)
                if live is not None and manifests.controller_uid(live) == uid:
                    found[attempt.job] = live
        return found

    async def _pods(
        self, job: FineTuneJob, jobs: Mapping[str, Manifest], never: frozenset[str]
    ) -> Mapping[str, tuple[Manifest, ...]]:
        """The pods by Job. Those of an attempt whose Job just ended are read live: the pod's termination
        message may travel behind the Job's status, and the outcome is decided once. So are those of one that
        has waited for too long: the trouble may be over, and the watch that would tell may be cut.
        """
        kept = self.stores.pods.owned_by(job.metadata.namespace, job.metadata.uid)
        found = dict(manifests.by_job(pod for pod in kept if _made_by_job(pod)))
        doubted = self._doubted(job)
        for name in (attempt.job for attempt in _open(job) if attempt.job not in never):
            if doubted or name not in jobs or manifests.finished(jobs[name]):
                live = await self._live_pods(job, name)
                if doubted:
                    self._compare(_key(job), found.get(name, ()), live)
                found[name] = live
        return found

    def _doubted(self, job: FineTuneJob) -> bool:
        waiting = job.status.waiting
        until = None if waiting is None else moment_of(waiting.until)
        return _key(job) in self._behind or (until is not None and until <= self.now())

    def _compare(self, key: Key, kept: Sequence[Manifest], live: Sequence[Manifest]) -> None:
        if _versions(kept) == _versions(live):
            self._behind.discard(key)
        else:
            self._behind.add(key)

    async def _live_pods(self, job: FineTuneJob, name: str) -> tuple[Manifest, ...]:
        live, _ = await self.api.list_all(POD, job.metadata.namespace, f"{manifests.JOB_LABEL}={name}")
        return tuple(p for p in live if _made_by_job(p) and labelled_uid(p) == job.metadata.uid)

    def _runs(self, job: FineTuneJob, jobs: Mapping[str, Manifest]) -> tuple[Manifest, ...]:
        """What finished runs measured, for the calibration in the job.json of prepare, which is written while
        its Job is still suspended.
        """
        preparing = [attempt.job for attempt in _open(job) if attempt.stage == "prepare"]
        waiting = any(manifests.suspended(jobs[name]) for name in preparing if name in jobs)
        return tuple(self.owners.measured(job.metadata.namespace)) if waiting else ()

    def _workloads(self, jobs: Mapping[str, Manifest]) -> Mapping[str, Manifest]:
        found = {name: self.stores.workloads.of(child) for name, child in jobs.items()}
        return {name: workload for name, workload in found.items() if workload is not None}

    async def _claims(self, job: FineTuneJob, jobs: Mapping[str, Manifest]) -> Mapping[str, Manifest]:
        """The workspace, and before an attempt starts the claims that the spec names."""
        namespace, ours = job.metadata.namespace, workspace_name(job)
        kept = self.stores.claims.get(namespace, ours)
        found = {} if kept is None else {ours: kept}
        if ended(job.status) or any(attempt.job in jobs for attempt in _open(job)):
            return found
        named = [source.claim for source in _sources(job) if source.claim is not None]
        workspace = job.spec.workspace.claim_name if job.spec.workspace is not None else None
        return {**await self.lookups.claims(namespace, [*named, *filter(None, [workspace])]), **found}

    async def _configmaps(self, job: FineTuneJob) -> frozenset[str]:
        prepared = any(
            a.stage == "prepare" and a.state in ("Running", "Succeeded") for a in job.status.attempts
        )
        names = [] if prepared or ended(job.status) else [s.name for s in _sources(job) if s.name is not None]
        return await self.lookups.configmaps(job.metadata.namespace, names)

    def _progress(self, job: FineTuneJob, pods: Mapping[str, tuple[Manifest, ...]]) -> Answer:
        """What rank 0 of the open attempt last said of itself."""
        ranks = (pod for attempt in _open(job) for pod in pods.get(attempt.job, ()))
        return next((self.poller.answer(pod) for pod in ranks if manifests.index_of(pod) == 0), SILENT)


def _key(job: FineTuneJob) -> Key:
    return Key("FineTuneJob", job.metadata.namespace, job.metadata.name)


def _versions(pods: Iterable[Manifest]) -> set[tuple[str, str]]:
    return {(manifests.uid_of(pod), manifests.text(pod, "metadata", "resourceVersion")) for pod in pods}


def _open(job: FineTuneJob) -> Sequence[Attempt]:
    return [attempt for attempt in job.status.attempts if attempt.state not in FINAL]


def _made_by_job(pod: Manifest) -> bool:
    return manifests.controlled_by(pod, "Job", manifests.label(pod, manifests.JOB_LABEL))


def _sources(job: FineTuneJob) -> list[Source]:
    spec = job.spec
    rows = (dataset.source for dataset in spec.datasets.values())
    return list(_parsed([spec.base_model.source, spec.output.destination, *rows]))


def _parsed(addresses: Iterable[str]) -> Iterable[Source]:
    """Invalid addresses are reported by the plan; they are skipped here."""
    for address in addresses:
        try:
            yield parse_source(address)
        except SourceError:
            continue
