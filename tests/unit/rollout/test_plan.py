"""What an AdapterDeployment asks for, and what it says of its server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Emit, Plan, Refusal
from finetune_operator.rollout.observed import Observed
from finetune_operator.rollout.plan import plan

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SETTINGS = Settings.model_validate({"images": {"trainer": "t", "serving": "s"}})
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NEW, OLD = "reviews--" + "a" * 12, "reviews--" + "b" * 12


def deployment(status: dict[str, Any] | None = None, **spec: Any) -> AdapterDeployment:
    body = {
        "serverRef": {"name": "shared"},
        "alias": "reviews",
        "adapter": {"fineTuneJobRef": {"name": "run"}},
    }
    meta = {"name": "reviews", "namespace": "demo", "uid": "u1", "generation": 2}
    return AdapterDeployment.model_validate(
        {"metadata": meta, "spec": {**body, **spec}, "status": status or {}}
    )


def job(
    succeeded: str = "True", promoted: bool = True, published: bool = True, method: str = "LoRA"
) -> FineTuneJob:
    spec = {
        "baseModel": {"source": "pvc://models/base"},
        "method": method,
        "dataset": {"source": "pvc://data/x.jsonl"},
        "output": {"destination": "pvc://adapters/run"},
    }
    artifact = {
        "destination": "pvc://adapters/run",
        "digest": DIGEST,
        "promoted": promoted,
        "verdict": "Promote" if promoted else "NoClearImprovement",
    }
    ended = {"type": "Succeeded", "status": succeeded, "reason": "UserError", "message": "row 3 is not JSON"}
    status = {"conditions": [ended], **({"artifact": artifact} if published else {})}
    return FineTuneJob.model_validate({"metadata": {"name": "run"}, "spec": spec, "status": status})


def server(**entry: Any) -> ModelServer:
    spec = {"baseModel": {"source": "pvc://models/base"}, "artifactStore": "pvc://adapters"}
    adapters = [{"alias": "reviews", "deployment": "reviews"} | entry] if entry else []
    status = {"endpoint": "http://shared-server.demo.svc:8000/v1", "adapters": adapters}
    return ModelServer.model_validate({"metadata": {"name": "shared"}, "spec": spec, "status": status})


def ready(decided: Plan) -> tuple[str, str]:
    assert decided.status is not None
    found = next(c for c in decided.status["conditions"] if c["type"] == "Ready")
    return found["status"], found["reason"]


def resolved(decided: Plan) -> str | None:
    assert decided.status is not None
    target = decided.status.get("resolved")
    return target and target["version"]


KEPT = {
    "resolved": {"source": "pvc://adapters/old", "digest": OTHER, "version": OLD, "fineTuneJob": "before"}
}
KEPT_SAME = {
    "resolved": {"source": "pvc://adapters/run", "digest": DIGEST, "version": NEW, "fineTuneJob": "run"}
}
DIRECT = {"adapter": {"source": "pvc://adapters/run", "digest": DIGEST}}

CASES = [
    pytest.param(
        deployment(), None, server(), "WaitingForFineTuneJob", None, id="the run does not exist yet"
    ),
    pytest.param(
        deployment(),
        job("Unknown", published=False),
        server(),
        "WaitingForFineTuneJob",
        None,
        id="the run is going on",
    ),
    pytest.param(
        deployment(),
        job("False", published=False),
        server(),
        "FineTuneJobFailed",
        None,
        id="the run ended with nothing",
    ),
    pytest.param(
        deployment(), job("False", promoted=False), server(), "Unpromoted", None, id="the gate said no"
    ),
    pytest.param(
        deployment(allowUnpromoted=True),
        job("False", promoted=False),
        server(),
        "Rolling",
        NEW,
        id="taken all the same",
    ),
    pytest.param(
        deployment(),
        job(method="Full"),
        server(),
        "UnsupportedAdapter",
        None,
        id="a whole model is no adapter",
    ),
    pytest.param(deployment(), job(), None, "ServerNotFound", NEW, id="the server does not exist"),
    pytest.param(deployment(), job(), server(), "Rolling", NEW, id="resolved, the server has not looked yet"),
    pytest.param(deployment(**DIRECT), None, server(), "Rolling", NEW, id="named by source and digest"),
    pytest.param(
        deployment(),
        job(),
        server(version=NEW, state="Serving", servingVersion=NEW),
        "Serving",
        NEW,
        id="served",
    ),
    pytest.param(
        deployment(),
        job(),
        server(version=NEW, state="Failed", servingVersion=OLD, reason="BaseMismatch", message="other base"),
        "BaseMismatch",
        NEW,
        id="refused by the agent while the old version serves",
    ),
    pytest.param(
        deployment(),
        job(),
        server(version=OLD, state="Serving", servingVersion=OLD),
        "Rolling",
        NEW,
        id="the server still reports the version before",
    ),
    pytest.param(
        deployment(KEPT),
        None,
        server(version=OLD, state="Serving"),
        "WaitingForFineTuneJob",
        OLD,
        id="earlier kept",
    ),
    pytest.param(
        deployment(KEPT_SAME),
        None,
        server(version=NEW, state="Serving", servingVersion=NEW),
        "Serving",
        NEW,
        id="the run was deleted after it was resolved",
    ),
]


@pytest.mark.parametrize(("mine", "run", "there", "reason", "version"), CASES)
def test_where_a_deployment_stands(
    mine: AdapterDeployment,
    run: FineTuneJob | None,
    there: ModelServer | None,
    reason: str,
    version: str | None,
) -> None:
    decided = plan(Observed(mine, run, there), SETTINGS, NOW)
    assert ready(decided) == ("True" if reason == "Serving" else "False", reason)
    assert resolved(decided) == version


def test_a_refused_version_says_that_the_old_one_keeps_answering() -> None:
    there = server(
        version=NEW, state="Failed", servingVersion=OLD, reason="BaseMismatch", message="Other base."
    )
    decided = plan(Observed(deployment(), job(), there), SETTINGS, NOW)
    assert decided.status is not None
    assert decided.status["serving"]["version"] == OLD
    message = next(c for c in decided.status["conditions"] if c["type"] == "Ready")["message"]
    assert message == f"Other base. {OLD} keeps answering."


def test_a_second_look_at_the_same_state_changes_nothing_and_tells_nothing() -> None:
    there = server(version=NEW, state="Serving", servingVersion=NEW)
    first = plan(Observed(deployment(), job(), there), SETTINGS, NOW)
    assert [type(a) for a in first.actions] == [Emit]
    assert first.status is not None
    again = plan(Observed(deployment(dict(first.status)), job(), there), SETTINGS, NOW.replace(hour=13))
    assert again.status == first.status
    assert again.actions == ()


def test_a_deleted_deployment_is_left_alone() -> None:
    gone = deployment()
    gone = gone.model_copy(
        update={"metadata": gone.metadata.model_copy(update={"deletion_timestamp": "now"})}
    )
    assert plan(Observed(gone, None, None), SETTINGS, NOW) == Plan()


def test_a_rollout_that_waits_for_its_server_says_what_is_wrong_with_it() -> None:
    there = server(version=NEW, state="Loading", message="being loaded.")
    trouble = {"type": "Ready", "status": "False", "reason": "OutOfMemory", "message": "raise the memory."}
    there = ModelServer.model_validate(
        {**there.to_dict(), "status": {**there.status.to_dict(), "conditions": [trouble]}}
    )
    decided = plan(Observed(deployment(KEPT_SAME), None, there), SETTINGS, NOW)
    assert decided.status is not None
    (message,) = {c["message"] for c in decided.status["conditions"] if c["type"] == "Ready"}
    assert message == "being loaded. ModelServer shared is not ready: raise the memory."


def told(
    status: dict[str, Any] | None = None, there: ModelServer | None = None, **spec: Any
) -> dict[str, Any]:
    """The Ready condition of a deployment whose run has published."""
    decided = plan(Observed(deployment(status, **spec), job(), there), SETTINGS, NOW)
    assert decided.status is not None
    return {c["type"]: c for c in decided.status["conditions"]}


WAITS = [
    pytest.param("Pending", "Stopped", ("False", "False"), id="a server that is scaled to zero"),
    pytest.param(
        "Loading", "ServerNotReady", ("True", "False"), id="a server without a replica that answers"
    ),
    pytest.param("Loading", "WaitingForSlot", ("True", "False"), id="another roll uses the surge slot"),
    pytest.param("Failed", "InsufficientSlots", ("False", "True"), id="no slot"),
    pytest.param("Failed", "BaseMismatch", ("False", "True"), id="an adapter of another base"),
    pytest.param("Loading", "Holding", ("True", "False"), id="a step that has its time"),
    pytest.param("Loading", "WaitingForRequests", ("True", "False"), id="a step without requests"),
    pytest.param("Loading", "Inconclusive", ("True", "False"), id="a step that may be chance"),
    pytest.param("Loading", "Paused", ("False", "False"), id="a rollout that the user paused"),
    pytest.param("Loading", "AnalysisFailed", ("False", "True"), id="a limit exceeded, and no way back"),
    pytest.param("Failed", "RolledBack", ("False", "True"), id="a version that was rolled back"),
]


@pytest.mark.parametrize(("state", "reason", "flags"), WAITS)
def test_what_waits_and_what_needs_somebody(state: str, reason: str, flags: tuple[str, str]) -> None:
    found = told(there=server(version=NEW, state=state, reason=reason, message="Why."))
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", reason)
    assert (found["Reconciling"]["status"], found["Stalled"]["status"]) == flags


def test_a_version_that_does_not_answer_is_not_said_to_keep_answering() -> None:
    there = server(version=NEW, state="Failed", reason="ArtifactMissing", message="It is gone.")
    assert told(there=there)["Ready"]["message"] == "It is gone."


def test_the_words_of_a_trouble_may_change_without_an_event() -> None:
    first = plan(
        Observed(deployment(), job(), server(version=NEW, state="Loading", message="1 of 2")), SETTINGS, NOW
    )
    assert first.status is not None
    there = server(version=NEW, state="Loading", message="2 of 2")
    again = plan(Observed(deployment(dict(first.status)), job(), there), SETTINGS, NOW)
    assert again.actions == ()
    assert again.status != first.status


def rolling(weight: int, phase: str = "Shift", to: str = NEW, **more: Any) -> ModelServer:
    """A server that is in the middle of a rollout."""
    record = {"deployment": "reviews", "generation": 2, "from": OLD, "to": to, "phase": phase, "step": 1}
    record |= {"weight": weight, "since": "2026-11-23T12:00:00Z", "verdict": "Waiting", **more}
    body = server(version=NEW, state="Loading", servingVersion=OLD, reason="Holding", message="Step 1.")
    status = {**body.status.to_dict(), "rollouts": [record]}
    return ModelServer.model_validate({**body.to_dict(), "status": status})


def looked(status: dict[str, Any], there: ModelServer) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The status after one more look, and the events of it."""
    decided = plan(Observed(deployment(status), job(), there), SETTINGS, NOW)
    events = [(a.reason, a.message) for a in decided.actions if isinstance(a, Emit)]
    return dict(decided.status or {}), events


def test_the_rollout_is_shown_without_what_only_the_server_needs() -> None:
    status, _ = looked({}, rolling(10))
    assert status["rollout"] == {
        "from": OLD, "to": NEW, "phase": "Shift", "step": 1, "weight": 10, "since": "2026-11-23T12:00:00Z",
        "verdict": "Waiting", "reason": "", "message": "",
    }  # fmt: skip


def test_the_rollout_of_another_version_is_not_shown() -> None:
    assert looked({}, rolling(10, to=OLD))[0].get("rollout") is None


def test_each_step_has_one_event() -> None:
    status, first = looked({}, rolling(10))
    told = f"Step 1: 10 of 100 requests go to {NEW}, the others to {OLD}."
    assert ("Shifted", told) in first
    status, again = looked(status, rolling(10))
    assert again == []
    status, promoted = looked(status, rolling(100, "Promote"))
    assert ("Promoted", f"{NEW} gets every request.") in promoted
    assert looked(status, rolling(100, "Complete"))[1] == []


def test_a_version_that_was_rolled_back_is_told_by_one_warning_that_says_what_answers() -> None:
    there = server(version=NEW, state="Failed", reason="RolledBack", message="50 %.", servingVersion=OLD)
    decided = plan(Observed(deployment(), job(), there), SETTINGS, NOW)
    (event,) = [a for a in decided.actions if isinstance(a, Emit)]
    assert (event.type, event.reason) == ("Warning", "RolledBack")
    assert event.message == f"50 %. {OLD} keeps answering."


CONFLICTS = [
    pytest.param(
        None, server(version=NEW, state="Failed", reason="AliasConflict"), True, id="another has it"
    ),
    pytest.param(True, None, True, id="while the server is away it stays"),
    pytest.param(True, server(version=NEW, state="Loading", reason="Rolling"), None, id="it was taken over"),
    pytest.param(None, server(version=NEW, state="Loading", reason="Rolling"), None, id="nobody has it"),
    pytest.param(
        None,
        server(alias="other", state="Failed", reason="AliasConflict"),
        None,
        id="a deleted object of this name wanted another alias",
    ),
]


@pytest.mark.parametrize(("before", "there", "after"), CONFLICTS)
def test_that_another_object_had_the_alias_is_remembered(
    before: bool | None, there: ModelServer | None, after: bool | None
) -> None:
    decided = plan(Observed(deployment({"aliasConflict": before}), job(), there), SETTINGS, NOW)
    assert (decided.status or {}).get("aliasConflict") == after


def test_a_conflict_is_remembered_while_the_adapter_is_not_published_yet() -> None:
    there = server(state="Failed", reason="AliasConflict")
    decided = plan(Observed(deployment(), None, there), SETTINGS, NOW)
    assert (decided.status or {}).get("aliasConflict") is True


SERVED = {"version": NEW, "digest": DIGEST, "source": "pvc://adapters/run", "allowUnpromoted": True}


def test_permission_that_was_taken_back_is_told_while_the_version_serves() -> None:
    there = server(version=NEW, state="Serving", servingVersion=NEW)
    found = told({**KEPT_SAME, "serving": SERVED}, there)
    assert found["Ready"]["status"] == "True"
    assert "replicas that start from now on refuse it" in found["Ready"]["message"]
    allowed = told({**KEPT_SAME, "serving": SERVED}, there, allowUnpromoted=True)
    assert "refuse" not in allowed["Ready"]["message"]


def test_what_serves_is_recorded_as_it_was_taken_into_service() -> None:
    there = server(version=NEW, state="Serving", servingVersion=NEW)
    decided = plan(Observed(deployment(allowUnpromoted=True), job(), there), SETTINGS, NOW)
    assert decided.status is not None
    since = {"since": "2026-11-23T12:00:00Z"}
    assert decided.status["serving"] == {**SERVED, **since}
    again = plan(Observed(deployment(dict(decided.status)), job(), there), SETTINGS, NOW.replace(hour=13))
    assert again.status is not None
    assert again.status["serving"] == {**SERVED, **since}


def test_what_answered_last_is_kept_while_the_server_has_no_replicas() -> None:
    stopped = server(version=NEW, state="Pending", reason="Stopped", message="Scaled to zero.")
    status: dict[str, Any] = {**KEPT_SAME, "serving": SERVED}
    for _ in range(2):
        status = dict(plan(Observed(deployment(status), job(), stopped), SETTINGS, NOW).status or {})
        assert (status.get("serving"), status.get("lastServed")) == (None, SERVED)
    again = server(version=NEW, state="Serving", servingVersion=NEW)
    status = dict(plan(Observed(deployment(status), job(), again), SETTINGS, NOW).status or {})
    assert (status["serving"]["digest"], status.get("lastServed")) == (SERVED["digest"], None)


@pytest.mark.parametrize(
    ("before", "serving"),
    [
        pytest.param({}, None, id="nothing was told yet"),
        pytest.param({**KEPT_SAME, "serving": SERVED}, NEW, id="what answered last is kept"),
    ],
)
def test_a_deployment_that_the_servers_status_has_no_room_for_is_unknown(
    before: dict[str, Any], serving: str | None
) -> None:
    there = server()
    there = there.model_copy(update={"status": there.status.model_copy(update={"adapters_left_out": 7})})
    decided = plan(Observed(deployment(before), job(), there), SETTINGS, NOW)
    assert decided.status is not None
    found = {c["type"]: (c["status"], c["reason"]) for c in decided.status["conditions"]}
    assert found["Ready"] == ("Unknown", "NotReported")
    assert {found[kind][0] for kind in ("Reconciling", "Stalled")} == {"False"}
    assert (decided.status.get("serving") or {}).get("version") == serving


def test_a_run_or_server_that_cannot_be_read_is_told_and_nothing_is_taken_back() -> None:
    mine = deployment({**KEPT_SAME, "serving": SERVED})
    decided = plan(
        Observed(mine, None, None, unreadable="ModelServer shared: spec: Field required"), SETTINGS, NOW
    )
    assert ready(decided) == ("False", "Unreadable")
    assert resolved(decided) == NEW
    assert decided.status is not None
    assert decided.status["serving"]["version"] == NEW


def test_a_refusal_of_the_api_server_is_told_in_its_words() -> None:
    refusal = Refusal("Event", "x", "Refused", "the server says no")
    decided = plan(Observed(deployment(), job(), None, refusal=refusal), SETTINGS, NOW)
    assert ready(decided) == ("False", "Refused")
