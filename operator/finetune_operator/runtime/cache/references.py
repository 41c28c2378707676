"""Which objects of ours name which others, learnt from watch events: whom to wake, never a fact."""

from __future__ import annotations

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import text
from finetune_operator.runtime.resources import Key

ARTIFACT = "Artifact"
"""The kind of what a FineTuneJob publishes, named by its digest; no object of Kubernetes."""


class References:
    """The AdapterDeployments and FineTuneJobs and what they name."""

    def __init__(self) -> None:
        self._named: dict[Key, frozenset[Key]] = {}
        self._naming: dict[Key, set[Key]] = {}

    def changed(self, key: Key, spec: Manifest) -> set[Key]:
        """Note an object as seen; returns every other object that should look again."""
        before = self._named.get(key, frozenset())
        named = _named_by(key, spec)
        self._replace(key, named)
        return {k for k in before | named if k.kind == "ModelServer"} | self._naming.get(key, set())

    def naming(self, key: Key) -> frozenset[Key]:
        """The objects that name an object."""
        return frozenset(self._naming.get(key, ()))

    def gone(self, key: Key) -> set[Key]:
        """Note that an object is gone; returns every other object that should look again."""
        return self.changed(key, {})

    def _replace(self, key: Key, named: frozenset[Key]) -> None:
        for other in self._named.pop(key, frozenset()):
            self._naming[other].discard(key)
            if not self._naming[other]:
                del self._naming[other]
        if named:
            self._named[key] = named
        for other in named:
            self._naming.setdefault(other, set()).add(key)


def _named_by(key: Key, spec: Manifest) -> frozenset[Key]:
    """A half-written spec of an older schema must not raise here: events are never repeated."""
    found: dict[str, tuple[tuple[str, str], ...]] = {
        "AdapterDeployment": (
            ("FineTuneJob", text(spec, "adapter", "fineTuneJobRef", "name")),
            (ARTIFACT, text(spec, "adapter", "digest")),
            ("ModelServer", text(spec, "serverRef", "name")),
        ),
        "FineTuneJob": (("ModelServer", text(spec, "evaluation", "engine", "serverRef", "name")),),
    }
    return frozenset(Key(kind, key.namespace, name) for kind, name in found.get(key.kind, ()) if name)
