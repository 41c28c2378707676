"""What one reconcile of a ModelServer sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.core.actions import Manifest, Refusal


@dataclass(frozen=True)
class PodState:
    """One serving pod and what its agent says of itself; `state` is None while the agent does not answer, and
    `state_at` is when it last did.
    """

    name: str
    uid: str
    ready: bool
    terminating: bool
    pod: Manifest
    state: Mapping[str, Any] | None
    state_at: datetime | None = None


@dataclass(frozen=True)
class Observed:
    """A ModelServer, its children and everything that wants to be served on it.

    `deployment`, `service`, `policy` and `manifest` (the ConfigMap) are None while absent;
    `deployments` are the AdapterDeployments that name this server; `claims` holds the
    PersistentVolumeClaims that the server mounts, a missing one being an absent key.
    """

    server: ModelServer
    deployment: Manifest | None
    manifest: Manifest | None
    pods: tuple[PodState, ...] = ()
    deployments: tuple[AdapterDeployment, ...] = ()
    claims: Mapping[str, Manifest] = field(default_factory=dict)
    service: Manifest | None = None
    policy: Manifest | None = None
    refusal: Refusal | None = None
