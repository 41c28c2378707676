"""The executor: order, idempotence of every action, what a conflict means and what a refusal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.core.actions import Apply, Confirm, Create, Delete, Emit, Patch, Plan
from finetune_operator.runtime.cache.arrivals import Arrivals
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.events import Recorder
from finetune_operator.runtime.executor import ExecutionResult, Executor, FailedError, RefusedError
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import Key
from finetune_operator.runtime.statuses import StatusWriter

OWNER = "/apis/finetune.dev/v1alpha1/namespaces/demo/finetunejobs/run"
JOBS = "/apis/batch/v1/namespaces/demo/jobs"
CONFIGMAPS = "/api/v1/namespaces/demo/configmaps"
KEY = Key("FineTuneJob", "demo", "run")
OURS = {
    "labels": {"finetune.dev/uid": "uid-run"},
    "ownerReferences": [{"uid": "uid-run", "controller": True}],
}
JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "demo", **OURS}}
CONFIGMAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "demo", **OURS}}
THEIRS = {"ownerReferences": [{"kind": "App", "name": "shop", "uid": "other", "controller": True}]}
STATUS = {"observedGeneration": 1}
RESULT = ExecutionResult


@pytest.fixture
def owner(server: Any) -> Any:
    return server.put(OWNER, apiVersion="finetune.dev/v1alpha1", kind="FineTuneJob", spec={"keep": True})


@pytest.fixture
async def recorder(api: Any) -> Recorder:
    return Recorder(api, lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def executor(api: Any, recorder: Recorder) -> Executor:
    clock = asyncio.get_running_loop().time
    statuses = StatusWriter(api, Owners(Arrivals(clock)), Metrics(), clock, lambda key, delay: None)
    return Executor(api, recorder, statuses, Metrics())


async def test_actions_run_in_order_and_the_status_last(server: Any, executor: Executor, owner: Any) -> None:
    actions = (Apply(CONFIGMAP), Create(JOB), Emit("Normal", "Started", "prepare started"))
    assert await executor.execute(KEY, owner, Plan(actions, STATUS)) is RESULT.WRITTEN
    assert server.seen == [
        ("GET", f"{CONFIGMAPS}/c"),
        ("PATCH", f"{CONFIGMAPS}/c"),
        ("POST", JOBS),
        ("PUT", f"{OWNER}/status"),
    ]
    assert server.objects[OWNER]["spec"] == {"keep": True}


@pytest.mark.parametrize("status", [400, 403, 405, 413, 422])
async def test_what_the_server_refuses_for_good_ends_the_plan_before_the_status_and_says_why(
    server: Any, executor: Executor, owner: Any, status: int
) -> None:
    server.fault("POST", JOBS, status, "exceeded quota")
    with pytest.raises(RefusedError) as caught:
        await executor.execute(KEY, owner, Plan((Create(JOB), Apply(CONFIGMAP)), STATUS))
    assert server.seen == [("POST", JOBS)]
    refusal = caught.value.refusal
    assert (refusal.kind, refusal.name, refusal.reason) == ("Job", "j", "Refused")
    assert refusal.message == "The API server refuses to create Job j: exceeded quota on purpose."


async def test_what_may_work_later_is_an_error_and_no_refusal(
    server: Any, executor: Executor, owner: Any
) -> None:
    server.fault("POST", JOBS, 500, "InternalError")
    with pytest.raises(FailedError, match="InternalError on purpose") as caught:
        await executor.execute(KEY, owner, Plan((Create(JOB),), STATUS))
    refusal = caught.value.refusal
    assert refusal.message == "The API server fails to create Job j: InternalError on purpose."
    assert (refusal.reason, refusal.passes) == ("WriteFailed", True)


async def test_an_owner_that_cannot_be_read_is_named(server: Any, executor: Executor, owner: Any) -> None:
    server.fault("GET", OWNER, 503, "ServiceUnavailable")
    with pytest.raises(FailedError) as caught:
        await executor.execute(KEY, owner, Plan((Confirm(), Create(JOB)), STATUS))
    told = "The API server fails to read FineTuneJob run: ServiceUnavailable on purpose."
    assert caught.value.refusal.message == told
    assert server.seen == [("GET", OWNER)]


@pytest.mark.parametrize("status", [403, 500])
async def test_an_action_that_nothing_depends_on_hides_nothing_else(
    server: Any, executor: Executor, owner: Any, status: int
) -> None:
    server.fault("DELETE", f"{JOBS}/old", status, "on purpose")
    plan = Plan((Delete("batch/v1", "Job", "old", "uid-old", optional=True), Create(JOB)), STATUS)
    assert await executor.execute(KEY, owner, plan) is RESULT.WRITTEN
    assert f"{JOBS}/j" in server.objects


async def test_what_an_old_owner_asks_for_is_not_created(server: Any, executor: Executor, owner: Any) -> None:
    server.put(OWNER, **{**owner, "spec": {"keep": False}})
    assert await executor.execute(KEY, owner, Plan((Confirm(), Create(JOB)), STATUS)) is RESULT.STALE
    assert server.seen == [("GET", OWNER)]


async def test_nothing_is_created_for_an_owner_that_is_gone(
    server: Any, executor: Executor, owner: Any
) -> None:
    del server.objects[OWNER]
    assert await executor.execute(KEY, owner, Plan((Confirm(), Create(JOB)), STATUS)) is RESULT.STALE
    assert server.seen == [("GET", OWNER)]


async def test_a_child_of_a_confirmed_owner_is_created(server: Any, executor: Executor, owner: Any) -> None:
    assert await executor.execute(KEY, owner, Plan((Confirm(), Create(JOB)), STATUS)) is RESULT.WRITTEN
    assert f"{JOBS}/j" in server.objects


@pytest.mark.parametrize(
    ("conditions", "stays"),
    [([{"type": "Complete", "status": "True"}], True), ([], False)],
    ids=["it has ended", "it goes on"],
)
async def test_a_job_that_changed_since_it_was_seen_is_deleted_unless_it_has_ended(
    server: Any, executor: Executor, owner: Any, conditions: Any, stays: bool
) -> None:
    seen = server.put(f"{JOBS}/j", **JOB)["metadata"]
    server.put(f"{JOBS}/j", **JOB, status={"active": 1, "conditions": conditions})
    delete = Delete("batch/v1", "Job", "j", seen["uid"], resource_version=seen["resourceVersion"])
    await executor.execute(KEY, owner, Plan((delete,), STATUS))
    assert (f"{JOBS}/j" in server.objects) == stays


async def test_creating_what_is_there_is_success(server: Any, executor: Executor, owner: Any) -> None:
    server.put(f"{JOBS}/j", **JOB)
    assert await executor.execute(KEY, owner, Plan((Create(JOB),), STATUS)) is RESULT.WRITTEN


_TAKEN = [
    ("another owner's", THEIRS, "is controlled by App shop"),
    ("nobody's", {}, "has no controller"),
    ("nobody's any more, with our label", {"labels": OURS["labels"]}, "has no controller"),
]


@pytest.mark.parametrize(("metadata", "says"), [t[1:] for t in _TAKEN], ids=[t[0] for t in _TAKEN])
@pytest.mark.parametrize("action", [Create(JOB), Apply(JOB)], ids=["create", "apply"])
async def test_an_object_of_the_name_that_is_not_ours_is_never_touched(
    server: Any, executor: Executor, owner: Any, action: Any, metadata: Any, says: str
) -> None:
    before = server.put(f"{JOBS}/j", **{**JOB, "metadata": metadata})
    with pytest.raises(RefusedError, match=says) as caught:
        await executor.execute(KEY, owner, Plan((action,), STATUS))
    assert caught.value.refusal.reason == "NameConflict"
    assert server.objects[f"{JOBS}/j"] == before


_LEAVING = [
    ("is being deleted", {**OURS, "deletionTimestamp": "2026-01-01T00:00:00Z"}),
    ("belongs to a predecessor", {**OURS, "ownerReferences": [{"uid": "old", "controller": True}]}),
]


@pytest.mark.parametrize("metadata", [t[1] for t in _LEAVING], ids=[t[0] for t in _LEAVING])
@pytest.mark.parametrize("action", [Create(JOB), Apply(JOB)], ids=["create", "apply"])
async def test_a_child_that_is_about_to_go_is_waited_for(
    server: Any, executor: Executor, owner: Any, action: Any, metadata: Any
) -> None:
    server.put(f"{JOBS}/j", **{**JOB, "metadata": metadata})
    assert await executor.execute(KEY, owner, Plan((action,), STATUS)) is RESULT.STALE
    assert ("PUT", f"{OWNER}/status") not in server.seen


async def test_our_child_that_the_plan_did_not_see_is_observed_first(
    server: Any, executor: Executor, owner: Any
) -> None:
    before = server.put(f"{CONFIGMAPS}/c", **{**CONFIGMAP, "data": {"generation": "7"}})
    assert await executor.execute(KEY, owner, Plan((Apply(CONFIGMAP),), STATUS)) is RESULT.STALE
    assert server.objects[f"{CONFIGMAPS}/c"] == before


_VIEWS = [
    ("the object that was observed", Apply(CONFIGMAP, uid="uid-c"), RESULT.WRITTEN),
    ("a successor of it", Apply(CONFIGMAP, uid="uid-old"), RESULT.STALE),
    ("written since it was observed", Apply(CONFIGMAP, uid="uid-c", resource_version="7"), RESULT.STALE),
]


@pytest.mark.parametrize(("action", "result"), [v[1:] for v in _VIEWS], ids=[v[0] for v in _VIEWS])
async def test_an_apply_reaches_only_what_it_was_decided_from(
    server: Any, executor: Executor, owner: Any, action: Apply, result: ExecutionResult
) -> None:
    server.put(f"{CONFIGMAPS}/c", **CONFIGMAP)
    assert await executor.execute(KEY, owner, Plan((action,), STATUS)) is result
    assert ("GET", f"{CONFIGMAPS}/c") not in server.seen


@pytest.mark.parametrize("uid", ["uid-j", "uid-of-a-predecessor"], ids=["same object", "another object"])
async def test_deleting_removes_only_the_object_it_was_decided_for(
    server: Any, executor: Executor, owner: Any, uid: str
) -> None:
    server.put(f"{JOBS}/j", **JOB)
    plan = Plan((Delete("batch/v1", "Job", "j", uid), Delete("batch/v1", "Job", "absent", "u")), STATUS)
    assert await executor.execute(KEY, owner, plan) is RESULT.WRITTEN
    assert (f"{JOBS}/j" in server.objects) == (uid != "uid-j")


async def test_patching_what_is_gone_means_look_again(server: Any, executor: Executor, owner: Any) -> None:
    plan = Plan((Patch("batch/v1", "Job", "j", {"spec": {"suspend": True}}),), STATUS)
    assert await executor.execute(KEY, owner, plan) is RESULT.STALE
    assert ("PUT", f"{OWNER}/status") not in server.seen


@pytest.mark.parametrize("status", [403, 422])
async def test_an_optional_patch_that_is_refused_hides_nothing_else(
    server: Any, executor: Executor, owner: Any, status: int
) -> None:
    server.fault("PATCH", f"{JOBS}/j", status, "no annotations")
    nudge = Patch("batch/v1", "Job", "j", {"metadata": {"annotations": {"a": "1"}}}, optional=True)
    assert await executor.execute(KEY, owner, Plan((nudge, Apply(CONFIGMAP)), STATUS)) is RESULT.WRITTEN
    assert f"{CONFIGMAPS}/c" in server.objects


_WRITES = [
    ("nothing", (), RESULT.UNCHANGED),
    ("an event", (Emit("Normal", "Started", "prepare started"),), RESULT.UNCHANGED),
    ("a child put back", (Apply(CONFIGMAP, uid="uid-c"),), RESULT.WRITTEN),
    ("a field changed", (Patch("v1", "ConfigMap", "c", {"data": {"a": "1"}}),), RESULT.WRITTEN),
]


@pytest.mark.parametrize(("actions", "result"), [w[1:] for w in _WRITES], ids=[w[0] for w in _WRITES])
async def test_a_child_that_was_written_counts_as_a_write(
    server: Any, executor: Executor, owner: Any, actions: Any, result: ExecutionResult
) -> None:
    server.put(f"{CONFIGMAPS}/c", **CONFIGMAP)
    assert await executor.execute(KEY, owner, Plan(actions)) is result


async def test_a_status_from_an_old_view_is_not_written(server: Any, executor: Executor, owner: Any) -> None:
    old = dict(owner)
    server.put(OWNER, **{**owner, "status": {"observedGeneration": 7}})
    assert await executor.execute(KEY, old, Plan((), STATUS)) is RESULT.STALE
    assert server.objects[OWNER]["status"] == {"observedGeneration": 7}


async def test_an_event_that_cannot_be_written_does_not_stop_the_plan(
    server: Any, executor: Executor, recorder: Recorder, owner: Any
) -> None:
    server.fault("POST", "/api/v1/namespaces/demo/events", 403, "Forbidden")
    plan = Plan((Emit("Normal", "Started", "prepare started"),), STATUS)
    assert await executor.execute(KEY, owner, plan) is RESULT.WRITTEN
    writer = asyncio.create_task(recorder.run())
    await recorder.flushed()
    assert not writer.done()
    writer.cancel()
