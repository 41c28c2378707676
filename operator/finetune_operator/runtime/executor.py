"""Performs the actions of a plan, in order; the status is written last (statuses.py)."""

from __future__ import annotations

import enum
import logging
from dataclasses import replace
from typing import Literal

from finetune_operator.core.actions import (
    Action,
    Apply,
    Confirm,
    Create,
    Delete,
    Emit,
    Manifest,
    Patch,
    Plan,
    Refusal,
)
from finetune_operator.core.manifests import (
    controller_uid,
    finished,
    label,
    name_conflict,
    name_of,
    terminating,
    text,
    uid_of,
)
from finetune_operator.render.names import UID_LABEL
from finetune_operator.runtime.client import Api, ApiError, Object
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Key, Resource, own_resource, resource_of
from finetune_operator.runtime.statuses import StatusWriter

PERMANENT = frozenset({400, 403, 405, 413, 422})
log = logging.getLogger(__name__)
_WORDS: dict[type[Action], str] = {
    Confirm: "read",
    Create: "create",
    Apply: "apply",
    Patch: "change",
    Delete: "delete",
    Emit: "tell of",
}


class ExecutionResult(enum.Enum):
    """What became of a plan."""

    UNCHANGED = "unchanged"
    """Every action was done; no child was changed and the status was what it should be."""
    WRITTEN = "written"
    """Every action was done; a child was changed or the status was written."""
    STALE = "stale"
    """What the plan was computed from has changed: observe and plan again."""


class RefusedError(Exception):
    """The API server refuses an action for good, or another owner's object has the name of a child."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.message)
        self.refusal = refusal


class FailedError(Exception):
    """An action failed in a way that may pass; `refusal` is what to tell of it once it lasts."""

    def __init__(self, refusal: Refusal, cause: ApiError):
        super().__init__(str(cause))
        self.refusal = refusal
        self.retry_after = cause.retry_after


class Executor:
    """Executes plans. The first action that fails ends the plan: no status runs ahead of its manifests."""

    def __init__(self, api: Api, recorder: Recorder, statuses: StatusWriter, metrics: Metrics):
        self._api = api
        self._recorder = recorder
        self._statuses = statuses
        self._metrics = metrics

    async def execute(self, key: Key, owner: Object, plan: Plan) -> ExecutionResult:
        """Run the actions, then write `plan.status` over the `owner` that it was computed from.

        Raises RefusedError when an action is refused for good; where trying again may help FailedError of an
        action, ApiError of the status.
        """
        results = {ExecutionResult.UNCHANGED}
        for action in plan.actions:
            results.add(await self._attempt(key, owner, action))
            if ExecutionResult.STALE in results:
                return ExecutionResult.STALE
            self._metrics.acted(type(action).__name__)
        try:
            written = await self._statuses.write(key, owner, plan.status)
        except ApiError as error:
            if error.status in (404, 409):
                return ExecutionResult.STALE
            raise
        changed = written or ExecutionResult.WRITTEN in results
        return ExecutionResult.WRITTEN if changed else ExecutionResult.UNCHANGED

    async def _attempt(self, key: Key, owner: Object, action: Action) -> ExecutionResult:
        try:
            return await self._perform(key, owner, action)
        except ApiError as error:
            refusal = _refusal(key, action, error)
            if isinstance(action, Patch | Delete) and action.optional:
                log.warning("refused", extra={"namespace": key.namespace, "error": refusal.message})
                return ExecutionResult.UNCHANGED
            if error.status not in PERMANENT:
                raise FailedError(refusal, error) from error
            raise RefusedError(refusal) from error

    async def _perform(self, key: Key, owner: Object, action: Action) -> ExecutionResult:
        """STALE when the action was decided from something that has changed since, and was not done."""
        match action:
            case Confirm():
                return await self._confirm(key, owner)
            case Create(manifest):
                return await self._create(key.namespace, manifest)
            case Apply(manifest, uid, version):
                done = await self._apply(key.namespace, manifest, uid, version)
                return ExecutionResult.WRITTEN if done else ExecutionResult.STALE
            case Patch(api_version, kind, name, body):
                done = await self._patch(key.namespace, resource_of(api_version, kind), name, body)
                return ExecutionResult.WRITTEN if done else ExecutionResult.STALE
            case Delete():
                await self._delete(key.namespace, action)
            case Emit(event_type, reason, message):
                self._recorder.record(owner, event_type, reason, message)
        return ExecutionResult.UNCHANGED

    async def _confirm(self, key: Key, owner: Object) -> ExecutionResult:
        live = await self._api.get(own_resource(key.kind), key.namespace, key.name)
        planned = text(owner, "metadata", "resourceVersion")
        same = live is not None and text(live, "metadata", "resourceVersion") == planned
        return ExecutionResult.UNCHANGED if same else ExecutionResult.STALE

    async def _create(self, namespace: str, manifest: Manifest) -> ExecutionResult:
        try:
            await self._api.create(_resource(manifest), namespace, manifest)
        except ApiError as error:
            if (error.status, error.reason) != (409, "AlreadyExists"):
                raise
            live = await self._live(namespace, manifest)
            if live is None:
                return ExecutionResult.STALE
            _refuse_foreign(manifest, live)
            return ExecutionResult.UNCHANGED if _is_child(manifest, live) else ExecutionResult.STALE
        return ExecutionResult.WRITTEN

    async def _apply(self, namespace: str, manifest: Manifest, uid: str | None, version: str | None) -> bool:
        if uid is None and (live := await self._live(namespace, manifest)) is not None:
            _refuse_foreign(manifest, live)
            return False  # it was decided without a look at what is there
        body = {**manifest, "metadata": {**manifest["metadata"], **_identity(uid, version)}}
        try:
            # What is new is not forced: had somebody else made it just now, its fields would conflict.
            await self._api.apply(_resource(manifest), namespace, body, force=uid is not None)
        except ApiError as error:
            if error.status == 409 or _is_of_another_uid(error):
                return False
            raise
        return True

    async def _live(self, namespace: str, manifest: Manifest) -> Object | None:
        return await self._api.get(_resource(manifest), namespace, name_of(manifest))

    async def _patch(self, namespace: str, resource: Resource, name: str, body: Manifest) -> bool:
        try:
            await self._api.patch(resource, namespace, name, body)
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    async def _delete(self, namespace: str, action: Delete) -> None:
        """One that is gone (404) or replaced (409) is what was asked for."""
        resource = resource_of(action.api_version, action.kind)
        preconditions = _identity(action.uid, action.resource_version)
        try:
            await self._api.delete(resource, namespace, action.name, preconditions, action.grace_seconds)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            if error.status == 409 and action.resource_version is not None:
                await self._delete_unfinished(namespace, action)

    async def _delete_unfinished(self, namespace: str, action: Delete) -> None:
        """It has changed since it was seen, and the watch may be cut: whether it has ended is read live."""
        live = await self._api.get(resource_of(action.api_version, action.kind), namespace, action.name)
        if live is not None and uid_of(live) == action.uid and not finished(live):
            await self._delete(namespace, replace(action, resource_version=None))


def _identity(uid: str | None, version: str | None) -> dict[str, str]:
    """What the stored object must be for a write to be done; None asks nothing."""
    asked = {"uid": uid, "resourceVersion": version}
    return {name: value for name, value in asked.items() if value is not None}


def _is_of_another_uid(error: ApiError) -> bool:
    """The server takes the uid of a predecessor for an attempt to change an immutable field."""
    return error.status == 422 and "metadata.uid: Invalid value" in error.message


def _is_child(wanted: Manifest, live: Object) -> bool:
    """Whether the live object is the wanted child, not one of a predecessor that is about to be deleted."""
    return not terminating(live) and controller_uid(live) == controller_uid(wanted)


def _refuse_foreign(wanted: Manifest, live: Object) -> None:
    """RefusedError when the name of a child is taken by an object of another owner, or of none."""
    controller = controller_uid(live)
    if controller == controller_uid(wanted):
        return
    # A Job of this owner that was deleted leaves its ConfigMap to the garbage collector for a moment.
    if not controller or label(live, UID_LABEL) != label(wanted, UID_LABEL):
        kind, name = text(live, "kind"), name_of(live)
        raise RefusedError(Refusal(kind, name, "NameConflict", name_conflict(live)))


def _refusal(key: Key, action: Action, error: ApiError) -> Refusal:
    match action:
        case Create(manifest) | Apply(manifest):
            kind, name = str(manifest["kind"]), name_of(manifest)
        case Patch(kind=kind, name=name) | Delete(kind=kind, name=name):
            pass
        case _:
            kind, name = key.kind, key.name
    passes = error.status not in PERMANENT
    said = f"The API server {'fails' if passes else 'refuses'} to {_WORDS[type(action)]} {kind} {name}"
    reason: Literal["WriteFailed", "Refused"] = "WriteFailed" if passes else "Refused"
    return Refusal(kind, name, reason, f"{said}: {error.message.rstrip('.')}.")


def _resource(manifest: Manifest) -> Resource:
    return resource_of(manifest["apiVersion"], manifest["kind"])
