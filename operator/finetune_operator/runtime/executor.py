"""Performs the actions of a plan, in order, and writes the status last."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from finetune_operator.core.actions import Action, Apply, Create, Delete, Emit, Manifest, Patch, Plan
from finetune_operator.runtime.client import Api, ApiError, Object
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Key, own_resource, resource_of


class Outcome(enum.Enum):
    """What became of a plan."""

    UNCHANGED = "unchanged"
    """Every action was done and the status was what it should be."""
    WRITTEN = "written"
    """Every action was done and the status was written."""
    STALE = "stale"
    """What the plan was computed from has changed: observe and plan again."""


class Executor:
    """Executes plans. The first action that fails ends the plan: no status runs ahead of its manifests."""

    def __init__(self, api: Api, recorder: Recorder, metrics: Metrics):
        self._api = api
        self._recorder = recorder
        self._metrics = metrics

    async def execute(self, key: Key, owner: Object, plan: Plan) -> Outcome:
        """Run the actions and write `plan.status` over the `owner` it was computed from; raises ApiError."""
        for action in plan.actions:
            if not await self._perform(key, owner, action):
                return Outcome.STALE
            self._metrics.acted(type(action).__name__)
        return await self._write_status(key, owner, plan.status)

    async def _perform(self, key: Key, owner: Object, action: Action) -> bool:
        match action:
            case Create(manifest):
                return await self._create(key, manifest)
            case Apply(manifest):
                await self._api.apply(_resource(manifest), key.namespace, manifest)
            case Patch(api_version, kind, name, body):
                return await self._patch(key, api_version, kind, name, body)
            case Delete(api_version, kind, name, uid):
                await self._delete(key, api_version, kind, name, uid)
            case Emit(type=kind, reason=reason, message=message):
                await self._recorder.record(owner, kind, reason, message)
        return True

    async def _create(self, key: Key, manifest: Manifest) -> bool:
        """Names are deterministic, so "already exists" means that an earlier reconcile created it."""
        try:
            await self._api.create(_resource(manifest), key.namespace, manifest)
        except ApiError as error:
            if (error.status, error.reason) != (409, "AlreadyExists"):
                raise
        return True

    async def _patch(self, key: Key, api_version: str, kind: str, name: str, body: Manifest) -> bool:
        try:
            await self._api.patch(resource_of(api_version, kind), key.namespace, name, body)
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    async def _delete(self, key: Key, api_version: str, kind: str, name: str, uid: str) -> None:
        """Gone (404) and replaced by another object (409) are both what was asked for."""
        try:
            await self._api.delete(resource_of(api_version, kind), key.namespace, name, uid)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def _write_status(self, key: Key, owner: Object, status: Manifest | None) -> Outcome:
        if status is None:
            return Outcome.UNCHANGED
        wanted = without_nulls(status)
        if wanted == without_nulls(owner.get("status") or {}):
            return Outcome.UNCHANGED
        try:
            await self._api.replace_status(own_resource(key.kind), key.namespace, {**owner, "status": wanted})
        except ApiError as error:
            if error.status in (404, 409):
                return Outcome.STALE
            raise
        return Outcome.WRITTEN


def without_nulls(value: Any) -> Any:
    """The value as the API server stores it: without null fields, tuples as lists."""
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(v) for v in value]
    return value


def _resource(manifest: Manifest) -> Any:
    return resource_of(manifest["apiVersion"], manifest["kind"])
