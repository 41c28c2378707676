"""Our own objects as the watches brought them and as our status writes left them.

Plans start from here instead of from a read. That is safe because the status is written with the object's
resourceVersion as precondition: a decision on an old object is refused, and the object is then read live.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import mapping, text
from finetune_operator.runtime.cache.arrivals import Arrivals, is_newer
from finetune_operator.runtime.cache.references import ARTIFACT, References
from finetune_operator.runtime.cache.reports import Reports
from finetune_operator.runtime.client import Object
from finetune_operator.runtime.resources import Key


@dataclass(frozen=True)
class _Entry:
    """An object as JSON, which takes a fifth of the memory of dictionaries."""

    uid: str
    version: str
    body: bytes


class Owners:
    """The cache. What is read from it is the reader's own."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self._entries: dict[Key, _Entry] = {}
        self._references = References()
        self._reports = Reports()
        self._measured: dict[str, dict[Key, Manifest]] = {}
        self._published: dict[Key, str] = {}
        self._asked: dict[Key, str] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def known(self) -> list[Key]:
        """The objects that exist."""
        return list(self._entries)

    def get(self, key: Key) -> Object | None:
        """An object, None when there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        found: Object = json.loads(entry.body)
        return found

    def naming(self, key: Key, kind: str) -> list[Object]:
        """The objects of a kind that name this object, ordered by name."""
        others = (other for other in self._references.naming(key) if other.kind == kind)
        found = (self.get(other) for other in sorted(others, key=str))
        return [owner for owner in found if owner is not None]

    def measured(self, namespace: str) -> list[Manifest]:
        """What the finished runs of a namespace measured: the fields that the calibration reads."""
        return list(self._measured.get(namespace, {}).values())

    def publishing(self, namespace: str, digest: str) -> Object | None:
        """A FineTuneJob of the namespace that published the artifact with this digest, the first by name."""
        found = [
            k for k, published in self._published.items() if (k.namespace, published) == (namespace, digest)
        ]
        return self.get(min(found, key=str)) if found else None

    def brought(self, key: Key, manifest: Manifest, *, deleted: bool) -> set[Key]:
        """Take a watch event; returns the objects that should look again.

        The object itself is not among them when the event only brings back what we wrote.
        """
        version = text(manifest, "metadata", "resourceVersion")
        if deleted:
            return {key, *self._gone(key, manifest)}
        self.arrivals.brought(key, version)
        quoting = self._quoting(key)
        news = self.put(key, manifest)
        others = self._references.changed(key, mapping(manifest, "spec")) | quoting | self._quoting(key)
        if key.kind == "ModelServer":
            others = self._reports.concerned(key, manifest, others)
        elif key.kind == "FineTuneJob" and not self._asks_otherwise(key, manifest):
            others = {other for other in others if other.kind != "ModelServer"}
        return {key, *others} if news else others

    def put(self, key: Key, manifest: Manifest) -> bool:
        """Keep an object unless a newer state of it is known already."""
        metadata = {k: v for k, v in mapping(manifest, "metadata").items() if k != "managedFields"}
        version = text(metadata, "resourceVersion")
        known = self._entries.get(key)
        if known is not None and not is_newer(version, known.version):
            return False
        body = json.dumps({**manifest, "metadata": metadata}, separators=(",", ":")).encode()
        self._entries[key] = _Entry(text(metadata, "uid"), version, body)
        self._note_measured(key, manifest)
        self._note_published(key, manifest)
        return True

    def version(self, key: Key) -> str | None:
        """The resourceVersion of an object, None when there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.version

    def newest(self, kind: str) -> int:
        """The highest resourceVersion of a kind, 0 where none is a number."""
        versions = (entry.version for key, entry in self._entries.items() if key.kind == kind)
        return max((int(version) for version in versions if version.isdigit()), default=0)

    def reread(self, key: Key, live: Manifest | None, before: str | None) -> None:
        """Keep what a read shows, also in place of a higher resourceVersion: a restored etcd begins lower.

        `before` is what was known when the read began; what came meanwhile is not replaced by an older state.
        """
        if live is None:
            self.remove(key)
            return
        if self.version(key) == before:
            self._entries.pop(key, None)
        self.put(key, live)

    def rewritten(self, key: Key, manifest: Manifest) -> None:
        """Keep what our write made of an object, and expect the watch to bring it.

        An object that is gone by now stays gone: its deletion may have overtaken the answer.
        """
        known = self._entries.get(key)
        if known is None or known.uid != text(manifest, "metadata", "uid"):
            return
        if self.put(key, manifest):
            self.arrivals.expect(key, text(manifest, "metadata", "resourceVersion"))

    def remove(self, key: Key) -> set[Key]:
        """Forget an object; returns the others that should look again."""
        quoting = self._quoting(key)
        self._entries.pop(key, None)
        self._measured.get(key.namespace, {}).pop(key, None)
        self._published.pop(key, None)
        self._asked.pop(key, None)
        self._reports.forget(key)
        self.arrivals.brought(key, None)
        return self._references.gone(key) | quoting

    def listed(self, kind: str, versions: Mapping[Key, str], at: str) -> list[Key]:
        """Expect the watch of a kind to bring what a list shows; `at` is the resourceVersion of the list.

        Returns the objects that are gone: kopf tells of no deletion that happened while its watch was cut.
        """
        self.arrivals.listed(kind, {k: v for k, v in versions.items() if self._behind(k, v)})
        return [
            key
            for key, entry in self._entries.items()
            if key.kind == kind and key not in versions and not is_newer(entry.version, at)
        ]

    def _behind(self, key: Key, version: str) -> bool:
        known = self._entries.get(key)
        return known is None or is_newer(version, known.version)

    def _gone(self, key: Key, manifest: Manifest) -> Iterable[Key]:
        """The deletion of a predecessor may arrive behind the object that replaced it."""
        known = self._entries.get(key)
        if known is not None and known.uid != text(manifest, "metadata", "uid"):
            return ()
        return self.remove(key)

    def _note_measured(self, key: Key, manifest: Manifest) -> None:
        finished = text(manifest, "status", "completionTime") and text(manifest, "status", "cost", "mfu")
        if key.kind != "FineTuneJob" or not finished:
            return
        status, spec = mapping(manifest, "status"), mapping(manifest, "spec")
        self._measured.setdefault(key.namespace, {})[key] = {
            "spec": {"method": spec.get("method"), "resources": mapping(spec, "resources")},
            "status": {name: status.get(name) for name in ("completionTime", "cost", "resolved")},
        }

    def _note_published(self, key: Key, manifest: Manifest) -> None:
        self._published.pop(key, None)
        digest = text(manifest, "status", "artifact", "digest")
        if key.kind == "FineTuneJob" and digest:
            self._published[key] = digest

    def _quoting(self, key: Key) -> frozenset[Key]:
        """Those that name the artifact of a run by its digest: they tell how good it is."""
        digest = self._published.get(key)
        return self._references.naming(Key(ARTIFACT, key.namespace, digest)) if digest else frozenset()

    def _asks_otherwise(self, key: Key, manifest: Manifest) -> bool:
        """Whether a run asks something else of the server that scores for it; its progress is not for it."""
        asked = text(manifest, "status", "candidate", "version")
        before, self._asked[key] = self._asked.get(key), asked
        return before != asked
