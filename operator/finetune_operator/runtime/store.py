"""What a reflector has seen of one resource: the objects, by name and by the uid of their owner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_operator.core.actions import Manifest

_Name = tuple[str, str]


class Store:
    """Objects of one resource. Manifests are shared, so readers must not change them."""

    def __init__(self) -> None:
        self._objects: dict[_Name, Manifest] = {}
        self._by_owner: dict[str, set[_Name]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> Manifest | None:
        """The object as last seen, None when it is not there."""
        return self._objects.get((namespace, name))

    def owned_by(self, uid: str) -> list[Manifest]:
        """The objects that carry the label `finetune.dev/uid` with this value, ordered by name."""
        return [self._objects[name] for name in sorted(self._by_owner.get(uid, ()))]

    def put(self, manifest: Mapping[str, Any]) -> Manifest | None:
        """Remember an object; returns what was known before."""
        name = _name(manifest)
        before = self._objects.get(name)
        if before is not None:
            self._unlink(name, before)
        self._objects[name] = _trim(manifest)
        self._by_owner.setdefault(_owner(manifest), set()).add(name)
        return before

    def remove(self, manifest: Mapping[str, Any]) -> Manifest | None:
        """Forget an object; returns what was known of it."""
        name = _name(manifest)
        before = self._objects.pop(name, None)
        if before is not None:
            self._unlink(name, before)
        return before

    def replace(self, manifests: Iterable[Mapping[str, Any]]) -> list[Manifest]:
        """Make the store equal to a fresh list; returns every object that is new, changed or gone.

        Gone ones must be reported: no watch ever tells what was deleted while it was cut.
        """
        fresh = {_name(manifest): manifest for manifest in manifests}
        gone = [known for name, known in self._objects.items() if name not in fresh]
        changed = [m for n, m in fresh.items() if _version(m) != _version(self._objects.get(n))]
        for manifest in gone:
            self.remove(manifest)
        for manifest in changed:
            self.put(manifest)
        return [*gone, *changed]

    def _unlink(self, name: _Name, manifest: Manifest) -> None:
        owned = self._by_owner.get(_owner(manifest), set())
        owned.discard(name)
        if not owned:
            self._by_owner.pop(_owner(manifest), None)


def _name(manifest: Manifest) -> _Name:
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _owner(manifest: Manifest) -> str:
    return str((manifest["metadata"].get("labels") or {}).get("finetune.dev/uid", ""))


def _version(manifest: Manifest | None) -> tuple[str, str] | None:
    if manifest is None:
        return None
    return manifest["metadata"].get("uid", ""), manifest["metadata"].get("resourceVersion", "")


def _trim(manifest: Mapping[str, Any]) -> Manifest:
    """Drop what no plan reads and what is a third of an object's size."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
    return {**manifest, "metadata": metadata}
