"""Objects that every fresh cluster gets: roles of its components, storage class, namespaces."""

from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]

STORAGE_CLASS = "finetune-local"
PROVISIONER = "finetune.dev/local"
SYSTEM_NAMESPACE = "finetune-system"
USER_NAMESPACE = "demo"
_RBAC = "rbac.authorization.k8s.io"
_READ = ["get", "list", "watch"]


def objects() -> list[Object]:
    """Everything, in an order in which it can be applied."""
    return [
        namespace(SYSTEM_NAMESPACE, "baseline"),
        namespace(USER_NAMESPACE, "restricted"),
        *_granted("kubelet-client", "system:kubelet-api-admin"),
        *_granted("coredns", "finetune:coredns", _dns_rules()),
        *_granted("provisioner", "finetune:provisioner", _provisioner_rules()),
        storage_class(),
    ]


def namespace(name: str, level: str) -> Object:
    """A namespace that enforces a Pod Security level."""
    labels = {
        "pod-security.kubernetes.io/enforce": level,
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def storage_class() -> Object:
    """The default class; Immediate, because there is one node and nothing to choose."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": default},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def _granted(user: str, role: str, rules: Sequence[Object] = ()) -> list[Object]:
    """The role, where it is ours, and its binding to the component's user."""
    made = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": role},
        "rules": list(rules),
    }
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"finetune:{user}"},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": f"finetune:{user}"}],
    }
    return [made, binding] if rules else [binding]


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str]) -> Object:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


def _dns_rules() -> list[Object]:
    return [
        _rule("", ["services", "pods", "namespaces"], _READ),
        _rule("discovery.k8s.io", ["endpointslices"], _READ),
    ]


def _provisioner_rules() -> list[Object]:
    return [
        _rule("", ["persistentvolumeclaims"], _READ),
        _rule("", ["persistentvolumes"], [*_READ, "create", "delete"]),
    ]
