"""The part of a child that plans read. Caches hold nothing else: there may be ten thousand finished pods.

Metadata and status are kept but for what only other programs read. Of a spec only the fields of these tables
are kept, so a plan that reads another one needs it added here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import mapping, text
from finetune_operator.runtime.client import Json

# True keeps a value; a mapping keeps these members of an object, or of every object of a list.
Shape: TypeAlias = "bool | Mapping[str, Shape]"

_NOT_READ = ("managedFields", "selfLink", "generateName")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_CONTAINER: Mapping[str, Shape] = {
    "name": True,
    "image": True,
    "env": {"name": True, "value": True},
    "resources": True,
    "restartPolicy": True,
}
_POD_SPEC: Shape = {
    "nodeName": True,
    "terminationGracePeriodSeconds": True,
    "schedulingGates": True,
    "priorityClassName": True,
    "containers": _CONTAINER,
    "initContainers": {**_CONTAINER, "args": True},
    "volumes": {
        "name": True,
        "persistentVolumeClaim": True,
        "projected": {"sources": {"secret": {"name": True}}},
    },
}
_JOB_SPEC: Shape = {"suspend": True, "completions": True, "parallelism": True, "managedBy": True}
_ENDED_CONTAINER: Mapping[str, Shape] = {
    "name": True,
    "restartCount": True,
    "state": {"terminated": {"exitCode": True, "reason": True, "finishedAt": True}},
}
_ENDED_STATUS: Shape = {
    "phase": True,
    "reason": True,
    "message": True,
    "startTime": True,
    "conditions": True,
    "containerStatuses": _ENDED_CONTAINER,
    "initContainerStatuses": _ENDED_CONTAINER,
}


def pod(manifest: Manifest) -> Manifest:
    """A pod. One that has ended keeps no termination messages: an outcome is decided from a live read."""
    status = mapping(manifest, "status")
    if text(status, "phase") not in ("Succeeded", "Failed"):
        return _child(manifest, _POD_SPEC, status)
    return _child(manifest, {"nodeName": True}, picked(status, _ENDED_STATUS))


def job(manifest: Manifest) -> Manifest:
    """A Job, without its template."""
    return _child(manifest, _JOB_SPEC, mapping(manifest, "status"))


def workload(manifest: Manifest) -> Manifest:
    """A Workload of Kueue, without its pod templates: those of other people's Jobs are kept too."""
    status = picked(mapping(manifest, "status"), {"conditions": True, "admissionChecks": True})
    return _child(manifest, {"active": True, "queueName": True}, status)


def whole(manifest: Manifest) -> Manifest:
    """A child that there are few of, with all that the server lists of it but the managed fields."""
    return {**manifest, "metadata": _metadata(manifest)}


def _child(manifest: Manifest, spec: Shape, status: Json) -> Manifest:
    return {
        "apiVersion": manifest.get("apiVersion"),
        "kind": manifest.get("kind"),
        "metadata": _metadata(manifest),
        "spec": picked(mapping(manifest, "spec"), spec),
        "status": status,
    }


def _metadata(manifest: Manifest) -> Manifest:
    metadata = {k: v for k, v in mapping(manifest, "metadata").items() if k not in _NOT_READ}
    annotations = mapping(metadata, "annotations")
    if _LAST_APPLIED in annotations:
        metadata["annotations"] = {k: v for k, v in annotations.items() if k != _LAST_APPLIED}
    return metadata


def picked(value: Json, shape: Shape) -> Json:
    """The part of a JSON value that a shape keeps."""
    if isinstance(shape, bool):
        return value
    if isinstance(value, list):
        return [picked(member, shape) for member in value]
    if not isinstance(value, Mapping):
        return value
    return {name: picked(value[name], part) for name, part in shape.items() if name in value}
