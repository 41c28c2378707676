"""What one reconcile of a FineTuneJob sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import FineTuneJobStatus
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Manifest, Refusal


@dataclass(frozen=True)
class Observed:
    """A FineTuneJob, its children and the objects of its namespace that it names.

    `jobs` holds every child Job by name and `pods` the pods of each child Job by the Job's name (also of Jobs
    that are gone); `claims` holds the PersistentVolumeClaims by name: the workspace and those in pvc://
    sources and in the destination, a missing one being an absent key. `configmaps` names the source
    ConfigMaps that exist (`name`) and their keys (`name/key`). Both show objects of users only until a stage
    that needs them starts: claims while no attempt runs, ConfigMaps before prepare. `progress` is the last
    document that the running stage served, None before the first, `progress_at` when it last answered, and
    `progress_failed` whether the last question got no answer; with many pods minutes lie between questions.
    `runs` are the finished FineTuneJobs of the namespace that measured an MFU, shown only when the job.json
    of prepare is about to be written. `refusal` is
    what the API server refused of the plan before this one. `workloads` are those that Kueue made of Jobs,
    by the Job's name; `kueue` says whether the cluster has Kueue, and `kueue_problem` why its Workloads
    cannot be listed, "" while they can. `server` is the ModelServer that scores, None while it does not exist
    and for a run with an engine of its own; `server_problem` says why one that exists cannot be read.
    """

    job: FineTuneJob
    jobs: Mapping[str, Manifest] = field(default_factory=dict)
    pods: Mapping[str, tuple[Manifest, ...]] = field(default_factory=dict)
    claims: Mapping[str, Manifest] = field(default_factory=dict)
    configmaps: frozenset[str] = frozenset()
    progress: Mapping[str, Any] | None = None
    runs: tuple[Manifest, ...] = ()
    workloads: Mapping[str, Manifest] = field(default_factory=dict)
    kueue: bool = False
    kueue_problem: str = ""
    refusal: Refusal | None = None
    progress_at: datetime | None = None
    progress_failed: bool = False
    server: ModelServer | None = None
    server_problem: str = ""


@dataclass(frozen=True)
class Run:
    """What was observed, and the status as it stands at this moment; `settings` are those the run keeps."""

    observed: Observed
    settings: Settings
    status: FineTuneJobStatus
    now: datetime

    @property
    def job(self) -> FineTuneJob:
        """The FineTuneJob; its status is the one that was stored, `status` is the current one."""
        return self.observed.job
