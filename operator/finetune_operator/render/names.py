"""Names and labels of everything the operator creates (docs/architecture.md, "Names")."""

from __future__ import annotations

import hashlib

from finetune_operator.api.adapterdeployment import CANDIDATES
from finetune_operator.api.objects import GROUP, ApiObject

MANAGED_BY = "finetune-operator"
KIND_LABEL = f"{GROUP}/kind"
OWNER_LABEL = f"{GROUP}/owner"
UID_LABEL = f"{GROUP}/uid"
STAGE_LABEL = f"{GROUP}/stage"
ATTEMPT_LABEL = f"{GROUP}/attempt"
SUSPENDED_BY = f"{GROUP}/suspended-by"
"""Annotation of a Job that the operator suspended, or of a Workload that it deactivated."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""The LocalQueue of a Job: Kueue alone suspends and resumes a Job that carries it."""


def owner_hash(uid: str) -> str:
    """Six hex digits of the owner's uid: a re-created object never adopts its predecessor's children."""
    return hashlib.sha256(uid.encode()).hexdigest()[:6]


def child_name(owner: ApiObject, stage: str, number: int) -> str:
    """The Job and the ConfigMap of one attempt at a stage."""
    return f"{owner.metadata.name}-{stage}-{number}-{owner_hash(owner.metadata.uid)}"


def workspace_name(owner: ApiObject) -> str:
    """The PersistentVolumeClaim that all stages of a run share."""
    return f"{owner.metadata.name}-work-{owner_hash(owner.metadata.uid)}"


def folder_name(owner: ApiObject) -> str:
    """The folder of a run in a workspace that the user named, which other runs may share."""
    return f"{owner.metadata.name}-{owner_hash(owner.metadata.uid)}"


def server_name(owner: ApiObject) -> str:
    """The children of a ModelServer but for its ConfigMap; users put the name of the Service in code."""
    return f"{owner.metadata.name}-server"


def manifest_name(owner: ApiObject) -> str:
    """The ConfigMap with the server manifest of a ModelServer."""
    return f"{owner.metadata.name}-manifest-{owner_hash(owner.metadata.uid)}"


def revision_name(owner: ApiObject, digest: str) -> str:
    """The ControllerRevision with a pod template of a ModelServer; `digest` is the template's."""
    name, digits = owner.metadata.name, digest.removeprefix("sha256:")[:10]
    return f"{name}-template-{owner_hash(owner.metadata.uid)}-{digits}"


def pod_selector(owner: ApiObject) -> dict[str, str]:
    """The labels by which the children of a ModelServer find its pods."""
    return {KIND_LABEL: owner.kind_name, OWNER_LABEL: owner.metadata.name}


def version_name(alias: str, digest: str) -> str:
    """The name under which the engine holds one version of an alias; `digest` is `sha256:<64 hex>`."""
    return f"{alias}--{digest.removeprefix('sha256:')[:12]}"


def candidate_name(owner: ApiObject) -> str:
    """What stands for the alias in the version of a run's candidate; no alias may be called so."""
    return f"{CANDIDATES}{owner.metadata.name}"


def labels(owner: ApiObject, kind: str | None = None) -> dict[str, str]:
    """The labels of every child of an object."""
    return {
        "app.kubernetes.io/managed-by": MANAGED_BY,
        KIND_LABEL: kind or owner.kind_name,
        OWNER_LABEL: owner.metadata.name,
        UID_LABEL: owner.metadata.uid,
    }


def stage_labels(owner: ApiObject, stage: str, number: int) -> dict[str, str]:
    """The labels of the children of one attempt at a stage."""
    return {**labels(owner), STAGE_LABEL: stage, ATTEMPT_LABEL: str(number)}
