"""What is played: what users and administrators do, and how the pods fare. Nothing here knows the operator."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.core.manifests import condition, text
from tests.faults.cluster.client import Client, Object
from tests.faults.cluster.history import History
from tests.faults.cluster.nodes import Fate
from tests.faults.cluster.trainer import stop_politely, succeed

USUAL_SECONDS = 120.0


@dataclass(frozen=True)
class World:
    """One namespace, as a user sees it."""

    client: Client
    namespace: str
    history: History

    async def create(self, manifest: Object) -> None:
        """`kubectl create`."""
        await self.client.create(manifest, self.namespace)

    async def change(self, kind: str, name: str, **spec: Any) -> None:
        """`kubectl patch` of the spec."""
        await self.client.patch(kind, self.namespace, name, {"spec": spec})

    async def delete(self, kind: str, name: str, **options: Any) -> None:
        """`kubectl delete`, without waiting."""
        await self.client.delete(kind, self.namespace, name, **options)

    def get(self, kind: str, name: str) -> Object:
        """The object as last seen, empty when there is none."""
        return self.history.objects.get((kind, name), {})

    def stands(self, kind: str, name: str, type_: str, status: str, reason: str | None = None) -> bool:
        """Whether a condition of the object has this status (and reason), at its present generation."""
        found, manifest = condition(self.get(kind, name), type_), self.get(kind, name)
        seen = manifest.get("status", {}).get("observedGeneration") == manifest.get("metadata", {}).get(
            "generation"
        )
        return seen and found.get("status") == status and reason in (None, found.get("reason"))

    async def until(self, kind: str, name: str, type_: str, status: str, reason: str | None = None) -> None:
        """Wait for a condition."""
        await self.history.until(lambda: self.stands(kind, name, type_, status, reason))

    async def until_gone(self, *kinds: str) -> None:
        """Wait until nothing of these kinds is left of what the operator makes."""
        await self.history.until(lambda: not any(ours(o) for kind in kinds for o in self.history.of(kind)))


def ours(manifest: Object) -> bool:
    """Whether the operator made it."""
    return text(manifest, "metadata", "labels", "app.kubernetes.io/managed-by") == "finetune-operator"


@dataclass(frozen=True, eq=False)
class Scenario:
    """A script that returns when all is as it should be in the end.

    `vague`: attempts and reasons are not compared, as what can be told of a pod that vanished depends on when
    the operator looks. `limit_seconds` is for the whole script.
    """

    name: str
    script: Callable[[World], Coroutine[Any, Any, None]]
    fates: Mapping[str, Sequence[Fate]] = field(default_factory=dict)
    default: Fate = succeed
    dying: Fate = stop_politely
    vague: bool = False
    limit_seconds: float = USUAL_SECONDS
