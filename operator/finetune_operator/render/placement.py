"""Where pods run and what they carry there: the administrator's table and the spec, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.parts import PodTemplate, Scheduling, Toleration
from finetune_operator.contracts.settings import GpuType, Settings
from finetune_operator.core.actions import Manifest
from finetune_operator.render.mounts import Mounts
from finetune_operator.render.security import pod_security

JOB_NAME = "batch.kubernetes.io/job-name"
_NODE = "kubernetes.io/hostname"
_ZONE = "topology.kubernetes.io/zone"
_TOPOLOGIES = ("topology.", "failure-domain.beta.kubernetes.io/")


class Placed(Protocol):
    """What the spec of a FineTuneJob and that of a ModelServer say about their pods."""

    @property
    def node_selector(self) -> dict[str, str]: ...
    @property
    def tolerations(self) -> tuple[Toleration, ...]: ...
    @property
    def pod_template(self) -> PodTemplate: ...
    @property
    def scheduling(self) -> Scheduling: ...


@dataclass(frozen=True)
class Placement:
    """Nodes, labels and classes of pods."""

    spec: Placed
    node_selector: Mapping[str, str]
    tolerations: tuple[Toleration, ...]
    gpu: GpuType = field(default_factory=GpuType)

    def pod_template(
        self, settings: Settings, labels: Mapping[str, str], mounts: Mounts, special: Mapping[str, Any]
    ) -> Manifest:
        """A pod template with our labels, these volumes, and what is `special` in the pod's spec."""
        carried = self.spec.pod_template
        metadata: dict[str, Any] = {"labels": {**self.gpu.labels, **carried.labels, **labels}}
        if annotations := {**self.gpu.annotations, **carried.annotations}:
            metadata["annotations"] = annotations
        return {
            "metadata": metadata,
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": pod_security(settings.run_as_user),
                "volumes": list(mounts.volumes.values()),
                "nodeSelector": dict(self.node_selector),
                "tolerations": [toleration.to_dict() for toleration in self.tolerations],
                **self._names(),
                **special,
            },
        }

    def _names(self) -> dict[str, Any]:
        carried, priority = self.spec.pod_template, self.spec.scheduling.priority_class_name
        names = {
            "priorityClassName": priority or self.gpu.priority_class_name,
            "runtimeClassName": self.gpu.runtime_class_name,
            "schedulerName": self.gpu.scheduler_name,
            "serviceAccountName": carried.service_account_name,
            "imagePullSecrets": [secret.to_dict() for secret in carried.image_pull_secrets],
        }
        return {key: value for key, value in names.items() if value}


def gpu_type(job: FineTuneJob, settings: Settings) -> GpuType:
    """The administrator's entry for the GPUs of a run; an empty one without GPUs."""
    asked = job.spec.resources
    found = settings.gpu_type(asked.gpu_type) if asked.gpus_per_node else None
    return found or GpuType()


def with_gpus(spec: Placed, gpu: GpuType) -> Placement:
    """Where training, scoring and serving run, also on the CPU: where the spec and the gpuType say."""
    selector = {**gpu.node_selector, **spec.node_selector}
    return Placement(spec, selector, (*gpu.tolerations, *spec.tolerations), gpu)


def cpu_stage(job: FineTuneJob, settings: Settings) -> Placement:
    """Where prepare and publish run: where the administrator says, and where a zonal workspace can be bound.

    Nothing else is taken over from the GPUs' nodes, on which these stages would hold back GPUs. A run
    without GPUs has one sort of pods, so there the spec's selector and tolerations are for all of them.
    """
    own, spec = settings.cpu_stages, job.spec
    theirs = with_gpus(spec, gpu_type(job, settings)).node_selector
    if not spec.resources.gpus_per_node:
        return Placement(spec, {**own.node_selector, **theirs}, (*own.tolerations, *spec.tolerations))
    zones = {key: value for key, value in theirs.items() if _is_zone(key)}
    return Placement(spec, {**own.node_selector, **zones}, own.tolerations)


def gang_affinity(job_name: str, gpu: GpuType, *, on_gpus: bool) -> dict[str, Any]:
    """Each pod of a gang on a node of its own, and all near each other as far as there is room.

    Two pods with GPUs on one node would exchange tensors over the network instead of NVLink, so that is
    refused; on the CPU it is avoided.
    """
    apart = _term(job_name, _NODE)
    spread = {"requiredDuringSchedulingIgnoredDuringExecution": [apart]} if on_gpus else _preferred(apart)
    near = _preferred(_term(job_name, gpu.topology_key)) if gpu.topology_key else {}
    return {"podAntiAffinity": spread, **({"podAffinity": near} if near else {})}


def spread(labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The pods with these labels on different nodes and zones as far as there is room, each version apart."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": topology,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(labels)},
            "matchLabelKeys": ["pod-template-hash"],
        }
        for topology in (_NODE, _ZONE)
    ]


def away_from(nodes: Sequence[str]) -> dict[str, Any]:
    """Other nodes than these, where there are any."""
    if not nodes:
        return {}
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    preferred = [{"weight": 100, "preference": {"matchFields": fields}}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _term(job_name: str, topology: str) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": {JOB_NAME: job_name}}, "topologyKey": topology}


def _preferred(term: dict[str, Any]) -> dict[str, Any]:
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}


def _is_zone(label: str) -> bool:
    return label.startswith(_TOPOLOGIES) and label.rpartition("/")[2] in ("zone", "region")
