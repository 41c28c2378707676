"""Whose the objects are that have the names of a server's children: what is not ours is never touched."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.core.actions import Action, Apply, Emit, Manifest
from finetune_operator.core.manifests import controller, name_conflict, name_of, terminating, text, uid_of
from finetune_operator.serving.children import intent_of
from finetune_operator.serving.drift import difference
from finetune_operator.serving.observed import Observed


@dataclass(frozen=True)
class Taken:
    """A child's name that this server cannot use: for good, or until its predecessor's object is gone."""

    kind: str
    name: str
    message: str
    passing: bool


def taken(observed: Observed) -> tuple[Taken, ...]:
    """The names that other objects have."""
    held = {
        "Deployment": observed.deployment,
        "Service": observed.service,
        "NetworkPolicy": observed.policy,
        "PodDisruptionBudget": observed.budget,
        "ConfigMap": observed.manifest,
    }
    found = (_taken(observed, kind, live) for kind, live in held.items() if live is not None)
    return tuple(entry for entry in found if entry is not None)


def put_right(intent: Manifest, live: Manifest | None) -> list[Action]:
    """Apply a child of ours that is absent or not as intended, and say so where somebody changed it.

    The server manifest is decided from the one before, so it is written only over that.
    """
    if live is None:
        return [Apply(intent)]
    path = difference(intent, live)
    if path is None or terminating(live):
        return []
    version = text(live, "metadata", "resourceVersion") if intent["kind"] == "ConfigMap" else None
    apply = Apply(intent, uid_of(live), version)
    if intent_of(live) != intent_of(intent):
        return [apply]
    message = (
        f"{path} of {intent['kind']} {name_of(intent)} was changed, by somebody or a webhook; the "
        "ModelServer puts it back."
    )
    return [apply, Emit("Normal", "ChangeReverted", message)]


def _taken(observed: Observed, kind: str, live: Manifest) -> Taken | None:
    server, name = observed.server.metadata, name_of(live)
    if observed.owns(live):
        return None
    found = controller(live)
    if found.get("kind") == "ModelServer" and found.get("name") == server.name:
        message = (
            f"{kind} {name} belongs to an earlier ModelServer {server.name}; waiting until it is "
            f"garbage-collected{_since(live)}."
        )
        return Taken(kind, name, message, passing=True)
    return Taken(kind, name, name_conflict(live), passing=False)


def _since(live: Manifest) -> str:
    since = text(live, "metadata", "deletionTimestamp")
    return f" (being deleted since {since})" if since else ""
