"""The executor: order, idempotence of every action, and what a conflict means."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.core.actions import Apply, Create, Delete, Emit, Patch, Plan
from finetune_operator.runtime.client import ApiError
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.executor import Executor, Outcome
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Key

OWNER = "/apis/finetune.dev/v1alpha1/namespaces/demo/finetunejobs/run"
JOBS = "/apis/batch/v1/namespaces/demo/jobs"
CONFIGMAPS = "/api/v1/namespaces/demo/configmaps"
EVENTS = "/api/v1/namespaces/demo/events"
KEY = Key("FineTuneJob", "demo", "run")
JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "demo"}}
CONFIGMAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "demo"}}
STATUS = {"observedGeneration": 1}


@pytest.fixture
def owner(server: Any) -> Any:
    return server.put(OWNER, apiVersion="finetune.dev/v1alpha1", kind="FineTuneJob", spec={"keep": True})


@pytest.fixture
def executor(api: Any) -> Executor:
    return Executor(api, Recorder(api, lambda: datetime(2026, 1, 1, tzinfo=UTC)), Metrics())


async def test_actions_run_in_order_and_the_status_last(server: Any, executor: Executor, owner: Any) -> None:
    actions = (Apply(CONFIGMAP), Create(JOB), Emit("Normal", "Started", "prepare started"))
    assert await executor.execute(KEY, owner, Plan(actions, STATUS)) is Outcome.WRITTEN
    assert server.seen == [
        ("PATCH", f"{CONFIGMAPS}/c"),
        ("POST", JOBS),
        ("POST", EVENTS),
        ("PUT", f"{OWNER}/status"),
    ]
    assert server.objects[OWNER]["spec"] == {"keep": True}


async def test_the_first_failure_ends_the_plan_before_the_status(
    server: Any, executor: Executor, owner: Any
) -> None:
    server.fault("POST", JOBS, 403, "Forbidden")
    with pytest.raises(ApiError, match="Forbidden on purpose"):
        await executor.execute(KEY, owner, Plan((Create(JOB), Apply(CONFIGMAP)), STATUS))
    assert server.seen == [("POST", JOBS)]


async def test_creating_what_is_there_is_success(server: Any, executor: Executor, owner: Any) -> None:
    server.put(f"{JOBS}/j", **JOB)
    assert await executor.execute(KEY, owner, Plan((Create(JOB),), STATUS)) is Outcome.WRITTEN


@pytest.mark.parametrize("uid", ["uid-j", "uid-of-a-predecessor"], ids=["same object", "another object"])
async def test_deleting_removes_only_the_object_it_was_decided_for(
    server: Any, executor: Executor, owner: Any, uid: str
) -> None:
    server.put(f"{JOBS}/j", **JOB)
    plan = Plan((Delete("batch/v1", "Job", "j", uid), Delete("batch/v1", "Job", "absent", "u")), STATUS)
    assert await executor.execute(KEY, owner, plan) is Outcome.WRITTEN
    assert (f"{JOBS}/j" in server.objects) == (uid != "uid-j")


async def test_patching_what_is_gone_means_look_again(server: Any, executor: Executor, owner: Any) -> None:
    plan = Plan((Patch("batch/v1", "Job", "j", {"spec": {"suspend": True}}),), STATUS)
    assert await executor.execute(KEY, owner, plan) is Outcome.STALE
    assert ("PUT", f"{OWNER}/status") not in server.seen


async def test_a_status_from_an_old_view_is_not_written(server: Any, executor: Executor, owner: Any) -> None:
    old = dict(owner)
    server.put(OWNER, **{**owner, "status": {"observedGeneration": 7}})
    assert await executor.execute(KEY, old, Plan((), STATUS)) is Outcome.STALE
    assert server.objects[OWNER]["status"] == {"observedGeneration": 7}


async def test_an_equal_status_costs_no_request(server: Any, executor: Executor, owner: Any) -> None:
    known = {**owner, "status": {"observedGeneration": 1, "attempts": [{"number": 1}]}}
    same = {"observedGeneration": 1, "attempts": ({"number": 1, "reason": None},), "stage": None}
    assert await executor.execute(KEY, known, Plan((), same)) is Outcome.UNCHANGED
    assert server.seen == []


async def test_an_event_that_cannot_be_written_does_not_stop_the_plan(
    server: Any, executor: Executor, owner: Any
) -> None:
    server.fault("POST", EVENTS, 403, "Forbidden")
    plan = Plan((Emit("Normal", "Started", "prepare started"),), STATUS)
    assert await executor.execute(KEY, owner, plan) is Outcome.WRITTEN
