"""What one reconcile of a FineTuneJob sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.core.actions import Manifest, Refusal


@dataclass(frozen=True)
class Observed:
    """A FineTuneJob, its children and the objects of its namespace that it names.

    `jobs` holds every child Job by name and `pods` the pods of each child Job by the Job's name (also of Jobs
    that are gone); `claims` holds the PersistentVolumeClaims by name: the workspace and those in pvc://
    sources and in the destination, a missing one being an absent key. `configmaps` names the source
    ConfigMaps that exist (`name`) and their keys (`name/key`). `progress` is the last document that the
    running stage served, None when it serves none. `runs` are the FineTuneJobs of the namespace, read only
    when the job.json of prepare is about to be written. `workloads` holds Kueue's Workloads by
    the name of the child Job, and `kueue` says whether the API server serves Workloads at all. `refusal` is
    what the API server refused of the plan before this one.
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
    refusal: Refusal | None = None
