"""What a pure plan may ask the executor to do.

`plan(observed, now)` returns a `Plan`; the executor performs `actions` in order, stops at the first
error, and then writes `status` once, with the resourceVersion the plan was computed from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Manifest: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Confirm:
    """Go on only if the owner, read live, still is the version that the plan was computed from.

    For a child that may have been there before: its name is free again once it is gone, so a plan of an old
    owner would create it once more.
    """


@dataclass(frozen=True)
class Create:
    """Create a child. One that exists and has the manifest's controller is success (names are deterministic);
    an object of somebody else with this name is a Refusal.
    """

    manifest: Manifest


@dataclass(frozen=True)
class Apply:
    """Server-side apply of the full intent of a child that the operator solely owns.

    `uid` is the uid of the child as observed, None when it was absent: whatever has the name by now is then
    looked at first, and is a Refusal unless it has the manifest's controller. `resource_version` is the one
    that the intent was computed from, where nothing written since may be overwritten.
    """

    manifest: Manifest
    uid: str | None = None
    resource_version: str | None = None


@dataclass(frozen=True)
class Patch:
    """Merge-patch one child, for fields that change during its life (`spec.suspend` of a Job).

    `optional`: nothing depends on it, so that a refusal of it is logged and hides nothing else.
    """

    api_version: str
    kind: str
    name: str
    body: Manifest
    optional: bool = False


@dataclass(frozen=True)
class Delete:
    """Delete a child in the background, only if it still is the object with this uid.

    `resource_version` is the version that the decision was made from, of a Job that stays if it has ended
    since.
    `grace_seconds` 0 removes a pod without waiting for its node, None leaves the pod its own grace period.
    `optional` as for a Patch.
    """

    api_version: str
    kind: str
    name: str
    uid: str
    resource_version: str | None = None
    grace_seconds: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Emit:
    """Record a Kubernetes event on the owner; equal events are folded by the recorder."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Refusal:
    """A child that the API server refused for good at the last write (quota, webhook, role, name taken), or
    fails to write for some time.

    `reason` is Refused, NameConflict where an object of somebody else has the name, or WriteFailed, which
    may pass by itself; `message` is a sentence with the server's words. It is observed like anything else:
    the plan shows it in the status.
    """

    kind: str
    name: str
    reason: Literal["Refused", "NameConflict", "WriteFailed"]
    message: str

    @property
    def passes(self) -> bool:
        """Whether it may end without a person: the server recovers, or a quota becomes free."""
        return self.reason == "WriteFailed" or "exceeded quota" in self.message


Action: TypeAlias = Confirm | Create | Apply | Patch | Delete | Emit


@dataclass(frozen=True)
class Plan:
    """The decision of one reconcile. `status` None leaves the status as it is.

    `requeue_after` is in seconds; None waits for the next watch event or resync.
    """

    actions: tuple[Action, ...] = ()
    status: Manifest | None = None
    requeue_after: float | None = None
