"""What the reflectors have seen of the children of our objects, which may be a moment behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeAlias

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import controller_uid, label, text, uid_of
from finetune_operator.render.names import UID_LABEL
from finetune_operator.runtime.cache import projections

ObjectName: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class _Entry:
    """A projection as JSON, which takes a fifth of the memory of dictionaries."""

    version: tuple[str, str]
    owner: ObjectName
    body: bytes


class Store:
    """Objects of one resource by name, and by namespace and owner. What is read is the reader's own.

    `owner` gives the uid of the object that a manifest belongs to, `projection` the part that is kept.
    """

    def __init__(
        self,
        projection: Callable[[Manifest], Manifest] = projections.whole,
        owner: Callable[[Manifest], str] = controller_uid,
    ):
        self._projection = projection
        self._owner = owner
        self._entries: dict[ObjectName, _Entry] = {}
        self._by_owner: dict[ObjectName, set[ObjectName]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, namespace: str, name: str) -> Manifest | None:
        """The object as last seen, None when it is not there."""
        entry = self._entries.get((namespace, name))
        return None if entry is None else _read(entry)

    def owned_by(self, namespace: str, uid: str) -> list[Manifest]:
        """The objects of an owner, ordered by name."""
        return [_read(self._entries[name]) for name in sorted(self._by_owner.get((namespace, uid), ()))]

    def put(self, manifest: Manifest) -> bool:
        """Remember an object; whether it is new or has changed."""
        name, version = object_name(manifest), _version(manifest)
        known = self._entries.get(name)
        if known is not None and known.version == version:
            return False
        self.remove(manifest)
        owner = name[0], self._owner(manifest)
        body = json.dumps(self._projection(manifest), separators=(",", ":")).encode()
        self._entries[name] = _Entry(version, owner, body)
        self._by_owner.setdefault(owner, set()).add(name)
        return True

    def remove(self, manifest: Manifest) -> None:
        """Forget an object."""
        name = object_name(manifest)
        before = self._entries.pop(name, None)
        if before is None:
            return
        owned = self._by_owner[before.owner]
        owned.discard(name)
        if not owned:
            del self._by_owner[before.owner]

    def keep_only(self, listed: Collection[ObjectName]) -> list[Manifest]:
        """Forget what a list did not name; returns it. No watch tells what was deleted while it was cut."""
        gone = [_read(entry) for name, entry in self._entries.items() if name not in listed]
        for manifest in gone:
            self.remove(manifest)
        return gone


class Workloads(Store):
    """Kueue's Workloads by the Jobs that own them; `served`: whether the API server knows such a thing,
    True also while that cannot be found out; `problem`: why they cannot be listed now, "" while they can.
    """

    def __init__(self) -> None:
        super().__init__(projections.workload)
        self.served = False
        self.problem = ""

    def of(self, job: Manifest) -> Manifest | None:
        """The Workload of a Job."""
        return next(iter(self.owned_by(text(job, "metadata", "namespace"), uid_of(job))), None)


def labelled_uid(manifest: Manifest) -> str:
    """The uid of the object of ours that a pod names; who controls the pod is the reader's to check."""
    return label(manifest, UID_LABEL)


@dataclass(frozen=True)
class Stores:
    """One store for each resource that has a reflector."""

    jobs: Store = field(default_factory=lambda: Store(projections.job))
    pods: Store = field(default_factory=lambda: Store(projections.pod, labelled_uid))
    claims: Store = field(default_factory=Store)
    deployments: Store = field(default_factory=Store)
    services: Store = field(default_factory=Store)
    policies: Store = field(default_factory=Store)
    budgets: Store = field(default_factory=Store)
    revisions: Store = field(default_factory=Store)
    configmaps: Store = field(default_factory=Store)
    workloads: Workloads = field(default_factory=Workloads)


def _read(entry: _Entry) -> Manifest:
    found: Manifest = json.loads(entry.body)
    return found


def object_name(manifest: Manifest) -> ObjectName:
    """Namespace and name."""
    return text(manifest, "metadata", "namespace"), text(manifest, "metadata", "name")


def _version(manifest: Manifest) -> tuple[str, str]:
    return uid_of(manifest), text(manifest, "metadata", "resourceVersion")
