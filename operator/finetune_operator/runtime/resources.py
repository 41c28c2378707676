"""The kinds that the operator touches and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import label, text
from finetune_operator.render.names import KIND_LABEL, OWNER_LABEL

GROUP = "finetune.dev"
VERSION = "v1alpha1"
KUEUE = "kueue.x-k8s.io"
MANAGED_BY = "app.kubernetes.io/managed-by=finetune-operator"
OF_SERVERS = f"{MANAGED_BY},finetune.dev/kind=ModelServer"


@dataclass(frozen=True)
class Key:
    """What the queue holds: one object of ours."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class Resource:
    """One resource type: where its collection lives under the API server's root."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection, an object or a subresource; `namespace` None spans all of them."""
        prefix = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [prefix]
        if namespace is not None:
            parts.append(f"namespaces/{namespace}")
        parts += [part for part in (self.plural, name, subresource) if part is not None]
        return "/".join(parts)


FINETUNEJOB = Resource(f"{GROUP}/{VERSION}", "FineTuneJob", "finetunejobs")
MODELSERVER = Resource(f"{GROUP}/{VERSION}", "ModelServer", "modelservers")
ADAPTERDEPLOYMENT = Resource(f"{GROUP}/{VERSION}", "AdapterDeployment", "adapterdeployments")
JOB = Resource("batch/v1", "Job", "jobs")
POD = Resource("v1", "Pod", "pods")
DEPLOYMENT = Resource("apps/v1", "Deployment", "deployments")
CONFIGMAP = Resource("v1", "ConfigMap", "configmaps")
SERVICE = Resource("v1", "Service", "services")
CLAIM = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NETWORKPOLICY = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
BUDGET = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
REVISION = Resource("apps/v1", "ControllerRevision", "controllerrevisions")
EVENT = Resource("v1", "Event", "events")
LEASE = Resource("coordination.k8s.io/v1", "Lease", "leases")

OURS = (FINETUNEJOB, MODELSERVER, ADAPTERDEPLOYMENT)
_ALL = (*OURS, JOB, POD, DEPLOYMENT, CONFIGMAP, SERVICE, CLAIM, NETWORKPOLICY, BUDGET, REVISION, EVENT)
_BY_KIND = {(resource.api_version, resource.kind): resource for resource in _ALL}
_OURS_BY_KIND = {resource.kind: resource for resource in OURS}


def workloads(api_version: str) -> Resource:
    """Kueue's Workloads in the version that the API server serves."""
    return Resource(api_version, "Workload", "workloads")


def resource_of(api_version: str, kind: str) -> Resource:
    """The resource of a manifest; a kind outside the table is a bug of the plan, so KeyError."""
    if (api_version.split("/")[0], kind) == (KUEUE, "Workload"):
        return workloads(api_version)
    return _BY_KIND[(api_version, kind)]


def own_resource(kind: str) -> Resource:
    """The resource of one of our three kinds."""
    return _OURS_BY_KIND[kind]


def owner_key(manifest: Manifest) -> Key | None:
    """The object of ours that may want to know of a child, by its labels; None when it carries none."""
    kind, owner = label(manifest, KIND_LABEL), label(manifest, OWNER_LABEL)
    if kind not in _OURS_BY_KIND or not owner:
        return None
    return Key(kind, text(manifest, "metadata", "namespace"), owner)
