"""What the runtime asks of the API server, as a protocol: raw dictionaries in and out.

A small surface on purpose: it is where fault injection plugs in, and all that a later change of the client
library has to provide (`kube.py` is the one implementation).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from finetune_operator.core.actions import Manifest
from finetune_operator.runtime.resources import Resource

Object: TypeAlias = dict[str, Any]
Json: TypeAlias = "Mapping[str, Json] | list[Json] | tuple[Json, ...] | str | int | float | bool | None"


class ApiError(Exception):
    """An answer other than 2xx, or none at all (`status` 0: refused, cut, timed out or never sent).

    `retry_after` is what the server asks to wait, in seconds.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None):
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True)
class Page:
    """Part of a list; `version` is the resourceVersion of the whole list, to watch from."""

    items: list[Object]
    version: str


class Api(Protocol):
    """Every method raises ApiError; `namespace` None means all namespaces."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """One object, None when there is none."""
        ...

    async def list_all(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> tuple[list[Object], str]:
        """All matching objects, read in pages, and the resourceVersion to watch from."""
        ...

    def pages(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        """As `list_all`, page by page: thousands of objects are not held at the same time."""
        ...

    async def list_metadata(self, resource: Resource, namespace: str | None) -> tuple[list[Object], str]:
        """As `list_all`, but nothing of the objects except their metadata."""
        ...

    def watch(
        self, resource: Resource, namespace: str | None, selector: str | None, version: str
    ) -> AsyncGenerator[Object, None]:
        """Watch events after `version`, bookmarks included, until the server ends the stream."""
        ...

    async def create(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """Create an object."""
        ...

    async def apply(self, resource: Resource, namespace: str, manifest: Manifest, *, force: bool) -> Object:
        """Server-side apply the full intent. `force` takes over fields that others have set (else 409)."""
        ...

    async def patch(self, resource: Resource, namespace: str, name: str, body: Manifest) -> Object:
        """Merge-patch an object."""
        ...

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        preconditions: Mapping[str, str],
        grace_seconds: int | None = None,
    ) -> None:
        """Delete an object in the background if it still has this uid and resourceVersion (409 otherwise);
        `grace_seconds` 0 removes a pod without waiting for its node.
        """
        ...

    async def replace(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """PUT an object; 409 unless `metadata.resourceVersion` is the current one."""
        ...

    async def replace_status(self, resource: Resource, namespace: str, manifest: Manifest) -> Object:
        """PUT the status; 409 unless `metadata.resourceVersion` is the current one."""
        ...

    async def document(self, path: str) -> Object | None:
        """What the server says at a path of its own (discovery, schemas), None when there is nothing."""
        ...
