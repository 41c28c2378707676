"""The children of a stage attempt: Job, ConfigMap, and of a gang Service and NetworkPolicy; the workspace."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import CODE_STAGES, Attempt, StageName
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.digests import digest_of, input_digest, spec_digest
from finetune_operator.contracts.job import (
    JobBudget,
    JobCalibration,
    JobDocument,
    JobEngine,
    JobServer,
    PublishSpec,
    job_spec,
)
from finetune_operator.contracts.settings import Settings, pinned, scoring_profile
from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import text
from finetune_operator.core.sources import parse_source
from finetune_operator.render.names import (
    MANAGED_BY,
    QUEUE_LABEL,
    SUSPENDED_BY,
    UID_LABEL,
    candidate_name,
    folder_name,
    labels,
    stage_labels,
    workspace_name,
)
from finetune_operator.render.placement import JOB_NAME
from finetune_operator.render.pod import PROGRESS_PORT, PodParts, stage_pod
from finetune_operator.render.resources import accelerator, on_gpus, other_gpus
from finetune_operator.render.sandbox import isolation

DEFAULT_WORKSPACE_SIZE = "50Gi"
_SCORING_STAGES = {"baseline", "evaluate", *CODE_STAGES}


def stage_job(job: FineTuneJob, settings: Settings, attempt: Attempt, parts: PodParts) -> Manifest:
    """The Job of an attempt, suspended: its ConfigMap can be owned by it only once it has a uid.

    The operator resumes it, which its annotation says; one with a queue is Kueue's to resume. Such a Job has
    its queue from the start: without one Kueue's webhook would put it into the namespace's default queue.

    An Indexed Job runs one pod per node and none twice (podReplacementPolicy Failed); any failure ends it,
    since the operator alone decides on the next attempt.
    """
    carried = stage_labels(job, attempt.stage, attempt.number)
    queue = None if parts.command == "reemit" else queue_of(job, attempt.stage)
    admitted = {QUEUE_LABEL: queue} if queue else {}
    metadata = {
        **_metadata(job, attempt.job, {**carried, **admitted}),
        "annotations": {} if queue else {SUSPENDED_BY: MANAGED_BY},
        "ownerReferences": [job.owner_reference()],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "suspend": True,
            "backoffLimit": 0,
            "completionMode": "Indexed",
            "completions": parts.nodes,
            "parallelism": parts.nodes,
            "podReplacementPolicy": "Failed",
            "template": stage_pod(job, settings, attempt, parts),
        },
    }


def queue_of(job: FineTuneJob, stage: str) -> str | None:
    """The LocalQueue that admits the pods of a stage, None for stages that are not queued."""
    return job.spec.scheduling.queue_name if on_gpus(job, stage) else None


def job_document(
    job: FineTuneJob,
    settings: Settings,
    attempt: Attempt,
    publish: PublishSpec | None,
    calibration: JobCalibration | None,
    server: ModelServer | None = None,
) -> JobDocument:
    """job.json of an attempt; `server` is the ModelServer that scores, if one does."""
    budget = job.spec.budget
    spec = job_spec(job.spec)
    return JobDocument(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        uid=job.metadata.uid,
        stage=attempt.stage,
        attempt=attempt.number,
        spec_digest=spec_digest(job.spec),
        input_digest=input_digest(attempt.stage, spec, publish),
        spec=spec,
        accelerator=accelerator(job, settings),
        other_gpus=other_gpus(job, settings),
        budget=None if budget is None else JobBudget(limit=budget.limit, currency=budget.currency),
        calibration=calibration,
        engine=_engine(job, settings, attempt.stage, server),
        publish=publish,
    )


def candidate_source(job: FineTuneJob) -> str:
    """Where the run puts its candidate for the ModelServer: beside all destinations of its claim."""
    claim = parse_source(job.spec.output.destination).claim
    return f"pvc://{claim}/_candidates/{folder_name(job)}"


def _engine(
    job: FineTuneJob, settings: Settings, stage: StageName, server: ModelServer | None
) -> JobEngine | None:
    """For the stages that score; of a server prepare is told too, as it plans no GPUs for scoring then.

    A run that recorded no profile, not even an empty one, keeps a trainer that knows no `engine`.
    """
    if job.spec.scoring_engine is not None:
        asked = stage in {"prepare", *_SCORING_STAGES}
        return JobEngine(server=_server(job, server)) if asked and server is not None else None
    recorded = job.status.pinned
    if stage not in _SCORING_STAGES or (recorded is not None and recorded.engine_profile is None):
        return None
    kept, profile = pinned(job, settings), scoring_profile(job, settings)
    args = (*kept.engine_args, *profile.args)
    return JobEngine(image=kept.images.serving, args=args, env=profile.env)


def _server(job: FineTuneJob, server: ModelServer) -> JobServer:
    record, engine = server.status.template, job.spec.scoring_engine
    return JobServer(
        endpoint=server.status.endpoint or "",
        model=server.spec.base_name,
        template=digest_of(record.controller_revision if record is not None else ""),
        candidate=candidate_name(job),
        source=candidate_source(job),
        key=engine.api_key.key if engine is not None and engine.api_key is not None else None,
    )


def job_config_map(job: FineTuneJob, attempt: Attempt, document: JobDocument, child: Manifest) -> Manifest:
    """The ConfigMap that brings job.json into the pods of the Job that owns it."""
    carried = stage_labels(job, attempt.stage, attempt.number)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**_metadata(job, attempt.job, carried), "ownerReferences": [_owned_by(child)]},
        "immutable": True,
        "data": {"job.json": document.to_json()},
    }


def rendezvous(job: FineTuneJob, attempt: Attempt, child: Manifest) -> tuple[Manifest, Manifest]:
    """What a gang needs to meet: a headless Service and a NetworkPolicy.

    The Service names the pods, also before they are ready. The policy lets them reach each other on every
    port, as NCCL chooses its own, where the namespace denies by default; nobody else reaches them but for
    their progress. It says nothing of what they may send: that would forbid what it does not list.
    """
    carried = stage_labels(job, attempt.stage, attempt.number)
    metadata = {**_metadata(job, attempt.job, carried), "ownerReferences": [_owned_by(child)]}
    pods = {JOB_NAME: attempt.job, UID_LABEL: job.metadata.uid}
    return _service(metadata, pods), _policy(metadata, pods)


def isolated(job: FineTuneJob, attempt: Attempt, child: Manifest) -> Manifest:
    """What cuts the pod of an attempt off from the network (render/sandbox.py)."""
    carried = stage_labels(job, attempt.stage, attempt.number)
    metadata = {**_metadata(job, attempt.job, carried), "ownerReferences": [_owned_by(child)]}
    return isolation(metadata, {JOB_NAME: attempt.job, UID_LABEL: job.metadata.uid})


def _service(metadata: Manifest, pods: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": pods,
            "ports": [{"name": "progress", "port": PROGRESS_PORT}],
        },
    }


def _policy(metadata: Manifest, pods: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": pods},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": pods}}]},
                {"ports": [{"port": PROGRESS_PORT, "protocol": "TCP"}]},
            ],
        },
    }


def workspace(job: FineTuneJob) -> Manifest:
    """The claim that holds base, rows, checkpoints and results."""
    asked = job.spec.workspace
    spec: dict[str, Any] = {
        "accessModes": [access_mode(job)],
        "resources": {"requests": {"storage": asked.size or DEFAULT_WORKSPACE_SIZE}},
    }
    if asked.storage_class_name is not None:
        spec["storageClassName"] = asked.storage_class_name
    metadata = _metadata(job, workspace_name(job), labels(job))
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {**metadata, "ownerReferences": [job.owner_reference()]},
        "spec": spec,
    }


def access_mode(job: FineTuneJob) -> str:
    """What the workspace must allow: pods on several nodes need ReadWriteMany."""
    return "ReadWriteMany" if job.spec.resources.nodes > 1 else "ReadWriteOnce"


def _metadata(job: FineTuneJob, name: str, carried: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "namespace": job.metadata.namespace, "labels": carried}


def _owned_by(child: Manifest) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": text(child, "metadata", "name"),
        "uid": text(child, "metadata", "uid"),
        "controller": True,
        "blockOwnerDeletion": False,
    }
