"""A server keeps its pod template until its spec or spec.upgrade asks for the operator's present one."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.engine import EngineProfile
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Create
from finetune_operator.serving.children import FETCH_SECONDS
from tests.unit.server.builders import NEWER, SETTINGS, World, applied, pod, server

AUTOMATIC = {"upgrade": {"policy": "Automatic"}}
PROFILED = SETTINGS.model_copy(update={"engine_profiles": {"fast": EngineProfile()}})
SETTINGS_CHANGES = [
    pytest.param(
        PROFILED.model_copy(update={"images": NEWER.images}),
        "image serving:1 -> serving:2",
        id="another image",
    ),
    pytest.param(
        PROFILED.model_copy(update={"engine_args": ("--enforce-eager",)}),
        "--enforce-eager",
        id="engine arguments",
    ),
    pytest.param(
        PROFILED.model_copy(
            update={"engine_profiles": {"fast": EngineProfile(args=("--async-scheduling",))}}
        ),
        "--async-scheduling",
        id="the profile that it names",
    ),
    pytest.param(PROFILED.model_copy(update={"env": {"A": "1"}}), "env[A]", id="an environment variable"),
    pytest.param(
        PROFILED.model_copy(update={"image_pull_policy": "Always"}), "imagePullPolicy", id="a policy"
    ),
]


def running(spec: dict[str, Any] | None = None, settings: Settings = SETTINGS) -> World:
    """A server whose rollout has completed."""
    return World(spec or {}, settings, pods=(pod(),)).settle()


def image(world: World) -> str:
    found: str = world.children["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]
    return found


@pytest.mark.parametrize(("settings", "told"), SETTINGS_CHANGES)
def test_a_change_of_settings_rolls_no_server_and_is_told(settings: Any, told: str) -> None:
    world = running({"engineProfile": "fast"}, PROFILED)
    world.settings = settings
    assert applied(world.reconcile()) == {}
    update = world.condition("UpdateAvailable")
    assert (update.status, update.reason) == ("True", "UpdateAvailable")
    assert told in update.message
    assert "spec.upgrade.revision" in update.message
    assert world.status["image"] == "serving:1"


def test_a_new_revision_takes_what_the_operator_renders_now_once() -> None:
    world = running()
    world.settings = NEWER
    world.settle()
    world.spec = {"upgrade": {"revision": "2026-11-27"}}
    world.settle()
    assert (image(world), world.status["image"]) == ("serving:2", "serving:2")
    assert world.condition("UpdateAvailable").status == "False"
    world.settings = SETTINGS
    world.settle()
    assert image(world) == "serving:2"


def test_a_change_of_the_spec_takes_the_present_image_with_it() -> None:
    world = running()
    world.settings = NEWER
    world.spec = {"maxModelLength": 2048}
    world.settle()
    assert image(world) == "serving:2"


KEYS = {"secretRef": {"name": "keys"}}
WITHOUT_PODS = [
    pytest.param({}, {"replicas": 3}, id="scaling"),
    pytest.param({}, {"upgrade": {"strategy": "Recreate"}}, id="the way of replacing"),
    pytest.param({}, {"limits": {"maxInFlight": 8}}, id="limits"),
    pytest.param(
        {"apiKeys": KEYS},
        {"apiKeys": {**KEYS, "allowedAliases": [{"name": "team", "aliases": ["reviews"]}]}},
        id="what a key may call",
    ),
]


@pytest.mark.parametrize(("before", "spec"), WITHOUT_PODS)
def test_what_is_not_of_the_pods_changes_none(before: dict[str, Any], spec: dict[str, Any]) -> None:
    world = running(before)
    template = copy.deepcopy(world.children["Deployment"]["spec"]["template"])
    world.settings, world.spec = NEWER, spec
    world.settle()
    assert world.children["Deployment"]["spec"]["template"] == template


def test_a_deleted_deployment_comes_back_as_it_was() -> None:
    world = running()
    before = copy.deepcopy(world.children.pop("Deployment"))
    world.settings = NEWER
    world.settle()
    assert world.children["Deployment"]["spec"] == before["spec"]


def test_the_deployment_of_an_operator_before_this_one_is_kept() -> None:
    world = running()
    world.status = {}
    container = world.children["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    container["terminationMessagePath"] = "/dev/termination-log"
    world.settings = NEWER
    world.reconcile()
    assert image(world) == "serving:1"
    assert world.condition("UpdateAvailable").status == "True"


def test_pods_that_an_earlier_operator_rendered_get_what_this_one_adds_only_when_asked_for() -> None:
    world = running()
    before = copy.deepcopy(world.template)
    before["spec"]["terminationGracePeriodSeconds"] = 120
    del before["spec"]["topologySpreadConstraints"]
    engine = before["spec"]["initContainers"][-1]
    engine["startupProbe"] = {"periodSeconds": 5, "failureThreshold": 360}
    engine["livenessProbe"]["exec"] = {"command": ["python", "-m", "finetune_serving", "health"]}
    _kept_in_the_status(world, before)
    del world.children["PodDisruptionBudget"]
    world.settle()
    assert "PodDisruptionBudget" in world.children
    deployment = world.children["Deployment"]["spec"]
    assert deployment["template"] == before
    assert deployment["progressDeadlineSeconds"] == FETCH_SECONDS + 1800
    assert world.condition("UpdateAvailable").status == "True"


def _kept_in_the_status(world: World, template: dict[str, Any]) -> None:
    """As operators did before templates had ControllerRevisions."""
    known = {key: value for key, value in world.status.pop("template").items() if key != "controllerRevision"}
    world.status["podTemplate"] = {**known, "template": json.dumps(template)}
    world.revisions.clear()


def test_a_template_that_an_earlier_operator_kept_in_the_status_moves_once_its_revision_is_there() -> None:
    world = running()
    before = copy.deepcopy(world.template)
    _kept_in_the_status(world, before)
    world.settings = NEWER
    decided = world.plan()
    assert [a.manifest["kind"] for a in decided.actions if isinstance(a, Create)] == ["ControllerRevision"]
    assert (decided.status or {})["podTemplate"] is not None, "until it is seen to be kept"
    world.settle()
    assert (image(world), world.template) == ("serving:1", before)
    assert "podTemplate" not in world.status


def test_only_the_template_in_force_is_kept() -> None:
    world = running()
    (first,) = world.revisions
    world.spec = {"maxModelLength": 2048}
    world.reconcile()
    assert first in world.revisions, "the status does not name the next one yet"
    world.settle()
    assert list(world.revisions) == [world.status["template"]["controllerRevision"]] != [first]
    assert world.template == world.children["Deployment"]["spec"]["template"]


def _deleted(revision: dict[str, Any]) -> None:
    revision["metadata"]["ownerReferences"] = []


def _of_another_content(revision: dict[str, Any]) -> None:
    revision["data"]["spec"]["template"]["spec"]["hostNetwork"] = True


@pytest.mark.parametrize("damage", [_deleted, _of_another_content])
def test_a_revision_that_is_not_what_was_kept_is_not_believed_and_the_deployment_tells(damage: Any) -> None:
    world = running()
    before = copy.deepcopy(world.children["Deployment"]["spec"]["template"])
    (kept,) = world.revisions.values()
    damage(kept)
    world.settings = NEWER
    world.reconcile()
    assert world.children["Deployment"]["spec"]["template"] == before


def test_a_lost_revision_is_made_again_from_the_deployment() -> None:
    world = running()
    world.revisions.clear()
    world.children["Deployment"]["spec"]["template"]["spec"]["schedulerName"] = "default-scheduler"
    world.settings = NEWER
    world.settle()
    assert (image(world), world.template["spec"]["schedulerName"]) == ("serving:1", "default-scheduler")
    assert world.condition("UpdateAvailable").status == "True"


def test_a_change_of_the_spec_is_seen_where_the_status_was_lost() -> None:
    world = running()
    world.status, world.settings, world.spec = {}, NEWER, {"maxModelLength": 2048}
    world.settle()
    assert image(world) == "serving:2"


def test_the_first_look_at_it_finds_no_update_where_only_defaults_differ() -> None:
    world = running()
    world.status = {}
    world.children["Deployment"]["spec"]["template"]["spec"]["schedulerName"] = "default-scheduler"
    world.reconcile()
    assert world.condition("UpdateAvailable").status == "False"


def test_a_server_whose_gpu_type_was_taken_from_the_settings_keeps_its_pods() -> None:
    gpus = {"a100": {"resourceName": "nvidia.com/gpu"}}
    world = World({"resources": {"gpus": 1, "gpuType": "a100"}}, pods=(pod(),))
    world.settings = SETTINGS.model_validate({**SETTINGS.model_dump(by_alias=True), "gpuTypes": gpus})
    world.settle()
    world.settings = SETTINGS
    assert applied(world.plan()) == {}


ALLOWED = SETTINGS.model_copy(update={"allowed_service_accounts": frozenset({"reader"})})


def test_what_the_administrator_withdrew_is_not_called_up_to_date() -> None:
    world = World({"podTemplate": {"serviceAccountName": "reader"}}, settings=ALLOWED, pods=(pod(),)).settle()
    assert world.condition("UpdateAvailable").reason == "UpToDate"
    world.settings = SETTINGS
    assert applied(world.reconcile()) == {}
    update = world.condition("UpdateAvailable")
    assert (update.status, update.reason) == ("False", "NotAllowed")
    assert "reader" in update.message


NEVER_READY = [
    pytest.param((), "serving:2", id="no pod at all"),
    pytest.param((pod(ready=False),), "serving:2", id="pods that never became ready"),
    pytest.param((pod(),), "serving:1", id="a pod that was ready"),
]


@pytest.mark.parametrize(("pods", "expected"), NEVER_READY)
def test_a_correction_of_the_settings_reaches_pods_that_never_started(pods: Any, expected: str) -> None:
    world = World(pods=pods).settle()
    world.pods = (pod(ready=False),)
    world.settings = NEWER
    world.settle()
    assert image(world) == expected


def test_a_correction_reaches_a_rollout_that_has_not_completed() -> None:
    world = running()
    world.spec = {"maxModelLength": 2048}
    world.reconcile()
    world.settings = NEWER
    world.reconcile()
    assert image(world) == "serving:2"
    assert world.status["template"]["cause"] == "Spec"


def test_the_template_of_an_operator_that_made_no_note_is_kept() -> None:
    world = running()
    del world.status["template"]["proven"]
    world.settings = NEWER
    world.settle()
    assert image(world) == "serving:1"


def annotated(count: int, length: int) -> dict[str, Any]:
    return {"podTemplate": {"annotations": {f"example.com/{n}": "é" * length for n in range(count)}}}


def test_a_long_template_of_a_legal_spec_is_kept_as_it_is() -> None:
    world = World(annotated(32, 1024), pods=(pod(),)).settle()
    assert world.condition("UpdateAvailable").reason == "UpToDate"
    assert len(json.dumps(world.template, ensure_ascii=False)) < 65536


def test_a_template_that_is_too_large_is_told() -> None:
    long = SETTINGS.model_copy(update={"env": {"A": "x" * 140_000}})
    world = World(settings=long)
    world.reconcile()
    assert "Deployment" not in world.children
    stalled = world.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "TemplateTooLarge")


def waiting(name: str, **upgrade: Any) -> ModelServer:
    """A server that upgrades by itself and has something to take."""
    found = {"type": "UpdateAvailable", "status": "True", "reason": "WaitingForTurn"}
    return server({"conditions": [found]}, name, name, upgrade={"policy": "Automatic", **upgrade})


def upgrading(name: str) -> ModelServer:
    found = {"type": "UpdateAvailable", "status": "False", "reason": "Upgrading"}
    return server({"conditions": [found]}, name, name, upgrade={"policy": "Automatic"})


TURNS = [
    pytest.param((), "serving:2", id="nobody else"),
    pytest.param((waiting("zebra"),), "serving:2", id="the first by name goes first"),
    pytest.param((waiting("alpha"),), "serving:1", id="another is before it"),
    pytest.param((upgrading("zebra"),), "serving:1", id="another is being upgraded"),
    pytest.param(
        (server(name="alpha", uid="u2"),), "serving:2", id="a server that is to be upgraded by hand"
    ),
]


@pytest.mark.parametrize(("peers", "expected"), TURNS)
def test_automatic_upgrades_take_turns(peers: tuple[ModelServer, ...], expected: str) -> None:
    world = running(AUTOMATIC)
    world.settings, world.more = NEWER, {"peers": peers}
    assert applied(world.reconcile()) == {}, "first it says that there is something to take"
    world.reconcile()
    assert image(world) == expected
    update = world.condition("UpdateAvailable")
    assert update.reason == ("Upgrading" if expected == "serving:2" else "WaitingForTurn")
    if expected == "serving:1":
        assert f"Waiting for ModelServer demo/{peers[0].metadata.name}" in update.message


def test_an_automatic_upgrade_lets_the_next_one_go_once_every_pod_is_new() -> None:
    world = running(AUTOMATIC)
    world.settings = NEWER
    world.reconcile()
    world.reconcile()
    assert world.condition("UpdateAvailable").reason == "Upgrading"
    world.settle()
    assert world.condition("UpdateAvailable").reason == "UpToDate"
