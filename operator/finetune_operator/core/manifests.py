"""Tolerant access to manifests of other writers: what is missing or of another type reads as empty.

Deciding must never fail on an odd observation, or one strange object would stop its own repair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from finetune_operator.core.actions import Manifest
from finetune_operator.core.times import parse_time

_FACTORS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)([numkMGTPE]|[KMGTPE]i|)")


def mapping(value: Any, *path: str) -> Mapping[str, Any]:
    """The object at a path of keys, empty when there is none."""
    found = _walk(value, path)
    return found if isinstance(found, Mapping) else {}


def items(value: Any, *path: str) -> tuple[Mapping[str, Any], ...]:
    """The objects of the list at a path of keys."""
    found = _walk(value, path)
    if not isinstance(found, (list, tuple)):
        return ()
    return tuple(entry for entry in found if isinstance(entry, Mapping))


def text(value: Any, *path: str) -> str:
    """The string at a path of keys, "" when there is none."""
    found = _walk(value, path)
    return found if isinstance(found, str) else ""


def integer(value: Any, *path: str) -> int | None:
    """The whole number at a path of keys."""
    found = _walk(value, path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def number(value: Any, *path: str) -> float | None:
    """The finite number at a path of keys."""
    found = _walk(value, path)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    return float(found) if abs(found) < 1e18 else None  # false for NaN and infinities too


def quantity(value: Any, *path: str) -> Decimal | None:
    """The amount that a Kubernetes quantity (`500m`, `1.5Gi`, `2e3`) at a path of keys stands for."""
    found = _QUANTITY.fullmatch(str(_walk(value, path)))
    return None if found is None else Decimal(found[1]) * _FACTORS.get(found[2], Decimal(1))


def moment(value: Any, *path: str) -> datetime | None:
    """The time at a path of keys."""
    try:
        return parse_time(text(value, *path))
    except ValueError:
        return None


def condition(manifest: Any, kind: str) -> Mapping[str, Any]:
    """One entry of `status.conditions`, empty when it is absent."""
    entries = items(manifest, "status", "conditions")
    return next((entry for entry in entries if entry.get("type") == kind), {})


def is_true(manifest: Any, kind: str) -> bool:
    """Whether a condition of the manifest is True."""
    return text(condition(manifest, kind), "status") == "True"


JOB_LABEL = "batch.kubernetes.io/job-name"
INDEX = "batch.kubernetes.io/job-completion-index"


def name_of(manifest: Manifest) -> str:
    """The object's name."""
    return text(manifest, "metadata", "name") or "(unnamed)"


def uid_of(manifest: Manifest) -> str:
    """The object's uid, "" when it has none."""
    return text(manifest, "metadata", "uid")


def label(manifest: Manifest, key: str) -> str:
    """The value of a label, "" when there is none."""
    return text(manifest, "metadata", "labels", key)


def controller(manifest: Manifest) -> Mapping[str, Any]:
    """The owner reference of what controls the object, empty when nothing does."""
    references = items(manifest, "metadata", "ownerReferences")
    return next((ref for ref in references if ref.get("controller") is True), {})


def controller_uid(manifest: Manifest) -> str:
    """The uid of the object that controls this one, "" when nothing does."""
    return text(controller(manifest), "uid")


def controlled_by(manifest: Manifest, kind: str, name: str) -> bool:
    """Whether the object's controller is of this kind and name; anybody may copy a label."""
    made_by = controller(manifest)
    return (text(made_by, "kind"), text(made_by, "name")) == (kind, name)


def name_conflict(live: Manifest) -> str:
    """What to tell the owner of a child whose name this object of somebody else has."""
    found, what = controller(live), f"{text(live, 'kind')} {name_of(live)}"
    whose = f"is controlled by {text(found, 'kind')} {text(found, 'name')}" if found else "has no controller"
    return (
        f"{what} exists already and {whose}; it was not created for this object and is left alone. "
        "Delete it, or create this object under another name."
    )


def finished(job: Manifest) -> bool:
    """Whether the Job has come to its end."""
    return is_true(job, "Complete") or is_true(job, "Failed")


def suspended(job: Manifest) -> bool:
    """Whether a Job makes no pods until it is resumed."""
    return mapping(job, "spec").get("suspend") is True


def terminating(manifest: Manifest) -> bool:
    """Whether the object is being deleted."""
    return bool(text(manifest, "metadata", "deletionTimestamp"))


def unfinished(pods: Sequence[Manifest]) -> list[Manifest]:
    """The pods that may still write."""
    return [pod for pod in pods if text(pod, "status", "phase") not in ("Succeeded", "Failed")]


def index_of(pod: Manifest) -> int:
    """The completion index (the rank of the node), 0 when the pod carries none."""
    carried = text(pod, "metadata", "annotations", INDEX) or label(pod, INDEX)
    return int(carried) if carried.isascii() and carried.isdigit() else 0


def container_specs(pod: Manifest) -> tuple[Mapping[str, Any], ...]:
    """The containers of a pod as asked for, those of its start last."""
    return (*items(pod, "spec", "containers"), *items(pod, "spec", "initContainers"))


def container_statuses(pod: Manifest) -> tuple[Mapping[str, Any], ...]:
    """How the containers of a pod stand, in the order in which they start."""
    return (*items(pod, "status", "initContainerStatuses"), *items(pod, "status", "containerStatuses"))


def placed_at(pod: Manifest) -> datetime | None:
    """When the scheduler last decided about the pod: for one with a node, when it got it."""
    return moment(condition(pod, "PodScheduled"), "lastTransitionTime")


def address(pod: Manifest) -> str | None:
    """The address of a pod whose containers run, None while they do not."""
    running = text(pod, "status", "phase") == "Running"
    return (text(pod, "status", "podIP") or None) if running else None


def by_job(pods: Iterable[Manifest]) -> Mapping[str, tuple[Manifest, ...]]:
    """Pods by the name of the Job that made them."""
    found: dict[str, tuple[Manifest, ...]] = {}
    for pod in pods:
        job = label(pod, JOB_LABEL)
        if job:
            found[job] = (*found.get(job, ()), pod)
    return found


def _walk(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value
