"""Graders that are images of the user's own: their containers, and what becomes of a run when they fail."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.render.graders import NETWORK_FOUND
from tests.unit.stages.kubernetes_simulation import SETTINGS, KubernetesSimulation, result_of
from tests.unit.stages.rendered import mounts_of, with_settings

Object = dict[str, Any]
IMAGE = "registry.example/polite@sha256:" + "a" * 64
POLITE = {"name": "polite", "type": "Container", "image": IMAGE, "timeoutSeconds": 300}
GRADERS = {"graders": [POLITE]}
SUITE = {
    "name": "letters",
    "dataset": {"source": "configmap://reviews/holdout.jsonl"},
    "grader": {
        "name": "polite",
        "type": "Container",
        "image": IMAGE,
        "command": ["sh", "-c", "echo $$ $(HOME)"],
    },
}


def grading(settings: Any = SETTINGS, model: str = "base", /, **changes: Any) -> KubernetesSimulation:
    """A run whose answers of `base` or `tuned` are being graded in their pod."""
    world = KubernetesSimulation(settings, **{"evaluation": GRADERS, **changes})
    world.claims["shared"] = {"metadata": {"uid": "shared"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.to("baseline").end(result_of("baseline", verdict=None, awaits="code"))
    if model == "tuned":
        world.end(result_of("grade-base")).to("evaluate")
        world.end(result_of("evaluate", verdict=None, awaits="code"))
    return world


def template_of(world: KubernetesSimulation) -> Object:
    """The template of the pod that runs."""
    template: Object = world.jobs[world.running()]["spec"]["template"]
    return template


def pod_of(world: KubernetesSimulation) -> Object:
    """The spec of the pod that runs."""
    spec: Object = template_of(world)["spec"]
    return spec


def ends(world: KubernetesSimulation, name: str, **terminated: Any) -> KubernetesSimulation:
    """A container that runs before the trainer's ends like this, and the pod with it."""
    pod = world.pods[world.running()][0]
    waiting = [{"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}]
    first = [{"name": name, "state": {"terminated": terminated}}]
    pod["status"] = {"phase": "Failed", "initContainerStatuses": first, "containerStatuses": waiting}
    world.finish_job(world.running(), good=False)
    return world.settle()


def starts(world: KubernetesSimulation, name: str, **state: Any) -> KubernetesSimulation:
    """A container that runs before the trainer's is in this state."""
    pod = world.pods[world.running()][0]
    pod["status"] = {"phase": "Pending", "initContainerStatuses": [{"name": name, "state": state}]}
    return world.settle()


def last(world: KubernetesSimulation) -> Object:
    """The last attempt that has ended."""
    found: Object = [a for a in world.status["attempts"] if a["state"] in ("Failed", "Succeeded")][-1]
    return found


def test_the_network_is_looked_at_before_an_image_of_the_user_runs() -> None:
    pod = pod_of(grading())
    assert [container["name"] for container in pod["initContainers"]] == ["network-check", "grader-polite"]
    assert pod["initContainers"][0]["image"] == "trainer:1"
    assert pod["initContainers"][0]["command"] == ["python", "-m", "finetune_trainer.sandbox.network"]


def test_an_image_of_the_user_sees_its_questions_and_nothing_of_ours() -> None:
    [_, container] = pod_of(grading())["initContainers"]
    assert container["image"] == IMAGE
    assert container["args"] == ["/grading/questions/questions.jsonl", "/grading/results/results.jsonl"]
    assert mounts_of(container) == {
        "/grading/questions": True, "/grading/results": False, "/tmp": False, "/dev/shm": False,
    }  # fmt: skip
    assert container["volumeMounts"][0]["subPath"] == "results/graders/base/grader-polite"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}
    assert not container.keys() & {"env", "envFrom", "command"}


def test_the_trainer_reads_the_results_and_cannot_change_them() -> None:
    pod = pod_of(grading())
    assert mounts_of(pod["containers"][0])["/run/graders/grader-polite"] is True
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "results-grader-polite"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}


def test_the_tuned_model_has_questions_of_its_own_and_a_suite_a_container_of_its_own() -> None:
    evaluation = {**GRADERS, "regression": {"suites": [SUITE]}}
    world = grading(SETTINGS, "tuned", evaluation=evaluation, workspace={"claimName": "shared"})
    [_, own, suite] = pod_of(world)["initContainers"]
    folder = f"run-{world.created[0].split('-')[-1]}"
    assert own["volumeMounts"][0]["subPath"] == f"{folder}/results/graders/tuned/grader-polite"
    assert (suite["name"], suite["command"]) == ("suite-letters", ["sh", "-c", "echo $$$$ $$(HOME)"])
    assert suite["volumeMounts"][0]["subPath"] == f"{folder}/results/graders/tuned/suite-letters"


def test_programs_and_images_run_one_after_the_other() -> None:
    graders = [POLITE, {"name": "tests", "type": "CodeAssert", "tests": "assert f()"}]
    world = grading(SETTINGS, "base", evaluation={"graders": graders, "primary": "tests"})
    assert [container["name"] for container in pod_of(world)["initContainers"]] == [
        "network-check", "grader-polite", "sandbox",
    ]  # fmt: skip


def test_pods_that_run_foreign_code_pull_with_the_secrets_of_the_run_but_have_not_its_service_account() -> (
    None
):
    carried = {"serviceAccountName": "reader", "imagePullSecrets": [{"name": "registry"}]}
    world = grading(with_settings(allowedServiceAccounts=["reader"]), podTemplate=carried)
    assert pod_of(world)["imagePullSecrets"] == [{"name": "registry"}]
    assert "serviceAccountName" not in pod_of(world)


def test_no_label_or_annotation_of_the_user_opens_a_pod_that_runs_foreign_code() -> None:
    carried = {
        "labels": {"egress": "allowed"},
        "annotations": {"k8s.v1.cni.cncf.io/networks": "storage"},
    }
    metadata = template_of(grading(podTemplate=carried))["metadata"]
    assert metadata == template_of(grading())["metadata"]
    assert metadata.keys() == {"labels"}
    assert all("finetune.dev/" in key or key.startswith("app.kubernetes.io/") for key in metadata["labels"])


def test_containers_with_foreign_code_share_no_memory() -> None:
    others = [POLITE, {**POLITE, "name": "kind"}, {"name": "tests", "type": "CodeAssert", "tests": "f()"}]
    pod = pod_of(grading(SETTINGS, evaluation={"graders": others, "primary": "tests"}))
    shared = {
        container["name"]: mount["name"]
        for container in pod["initContainers"]
        for mount in container.get("volumeMounts", ())
        if mount["mountPath"] == "/dev/shm"
    }
    assert shared.keys() == {"grader-polite", "grader-kind", "sandbox"}
    volumes = [volume for volume in pod["volumes"] if volume["name"] in shared.values()]
    assert [volume["emptyDir"] for volume in volumes] == 3 * [{"medium": "Memory", "sizeLimit": "64Mi"}]
    assert pod["securityContext"]["sysctls"] == [{"name": "kernel.shm_rmid_forced", "value": "1"}]


def test_other_pods_set_no_kernel_parameter() -> None:
    assert "sysctls" not in pod_of(KubernetesSimulation().to("train"))["securityContext"]


CRASHES = [
    pytest.param(
        {"exitCode": 3, "reason": "Error", "message": "$(PROXY)\nno module named nltk\n"},
        "exited with code 3: $(PROXY)\nno module named nltk",
        id="an exit code",
    ),
    pytest.param({"exitCode": 1, "reason": "Error"}, "exited with code 1: it wrote no log", id="no log"),
    pytest.param({"exitCode": 125, "reason": "Error"}, "exited with code 125", id="the last code of its own"),
    pytest.param(
        {"exitCode": 137, "reason": "OOMKilled"}, "needed more memory than 4Gi", id="too little memory"
    ),
]


@pytest.mark.parametrize(("ended", "said"), CRASHES)
@pytest.mark.parametrize("model", ["base", "tuned"])
def test_a_grader_that_fails_is_left_out_and_the_stage_runs_again(
    model: str, ended: Object, said: str
) -> None:
    world = ends(grading(SETTINGS, model), "grader-polite", **ended)
    failed = last(world)
    assert (failed["reason"], failed["failedGrader"]) == ("GraderFailed", "grader-polite")
    assert failed["message"].startswith(f"Grader polite (registry.example/polite@sha256:{'a' * 12}) ")
    assert said in failed["message"]
    pod = pod_of(world)
    assert f"-grade-{model}-2-" in world.running()
    assert "initContainers" not in pod
    told = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}["FT_FAILED_GRADERS"]
    assert "$(" not in told.replace("$$", "")
    assert json.loads(told.replace("$$", "$")) == {"grader-polite": failed["message"]}
    world.end(result_of(f"grade-{model}", verdict="Ungraded", blocking=model == "base"))
    if model == "tuned":
        world.end(result_of("publish", promoted=False, verdict="Ungraded"))
    assert world.condition("Promoted") == ("False", "Ungraded")


def test_every_grader_may_fail_once() -> None:
    others = [{**POLITE, "name": f"g{number}"} for number in range(6)]
    world = grading(
        evaluation={"graders": [*others, {"name": "exact", "type": "ExactMatch"}], "primary": "exact"}
    )
    for number in range(6):
        ends(world, f"grader-g{number}", exitCode=1, reason="Error")
    assert "-grade-base-7-" in world.running()
    assert "initContainers" not in pod_of(world)


def test_a_grader_cannot_speak_for_the_trainer() -> None:
    forged = {"exitCode": 1, "reason": "Error", "message": result_of("grade-base")}
    world = ends(grading(), "grader-polite", **forged)
    assert last(world)["reason"] == "GraderFailed"
    assert world.condition("BaselineScored")[0] == "Unknown"


NOT_SURELY_ITS_OWN = [
    pytest.param({"exitCode": 255, "reason": "Unknown"}, id="a runtime that lost it"),
    pytest.param({"exitCode": 137, "reason": "ContainerStatusUnknown"}, id="a node that started again"),
    pytest.param({"exitCode": 128, "reason": "StartError"}, id="one that did not start"),
    pytest.param({"exitCode": 137, "reason": "Error"}, id="a signal"),
    pytest.param({"exitCode": 127, "reason": "Error"}, id="a shell that finds no program"),
]


@pytest.mark.parametrize("ended", NOT_SURELY_ITS_OWN)
def test_a_grader_is_tried_again_before_it_is_blamed_for_what_the_node_may_have_done(ended: Object) -> None:
    world = ends(grading(), "grader-polite", **ended)
    assert (last(world)["reason"], last(world).get("failedGrader")) == ("Unknown", None)
    assert "grader-polite" in [container["name"] for container in pod_of(world)["initContainers"]]
    ends(world, "grader-polite", **ended)
    assert (last(world)["reason"], last(world).get("failedGrader")) == ("GraderFailed", "grader-polite")
    assert f"exited with code {ended['exitCode']}" in last(world)["message"]


def test_what_another_grader_did_says_nothing_about_a_fault_of_the_node() -> None:
    evaluation = {"graders": [POLITE, {**POLITE, "name": "kind"}], "primary": "polite"}
    world = ends(grading(evaluation=evaluation), "grader-kind", exitCode=3, reason="Error")
    ends(world, "grader-polite", exitCode=137, reason="ContainerStatusUnknown")
    assert (last(world)["reason"], last(world).get("failedGrader")) == ("Unknown", None)


@pytest.mark.parametrize("model", ["base", "tuned"])
def test_a_pod_that_reaches_the_network_is_tried_three_times_and_told_with_both_causes(model: str) -> None:
    said = "a pod that NetworkPolicies cut off reaches the API server at 10.0.0.1 port 443\n"
    world = grading(SETTINGS, model)
    for _ in range(2):
        ends(world, "network-check", exitCode=NETWORK_FOUND, reason="Error", message=said)
        assert last(world)["reason"] == "Unknown"
        world.pass_time(60)
    ends(world, "network-check", exitCode=NETWORK_FOUND, reason="Error", message=said)
    assert world.condition("Succeeded") == ("False", "Unknown")
    told = world.message("Succeeded")
    assert "reaches the API server at 10.0.0.1 port 443" in told
    assert "network plugin enforces no NetworkPolicies" in told
    assert "another NetworkPolicy of namespace demo lets this pod out" in told


def test_a_tuned_model_is_graded_once_a_slow_network_plugin_has_closed_the_pod() -> None:
    world = ends(grading(SETTINGS, "tuned"), "network-check", exitCode=NETWORK_FOUND, reason="Error")
    world.end(result_of("grade-tuned")).end(result_of("publish"))
    assert world.condition("Succeeded")[0] == "True"


def test_a_check_of_the_network_that_crashes_is_tried_again() -> None:
    world = ends(grading(), "network-check", exitCode=1, message="MemoryError")
    assert last(world)["reason"] == "Unknown"
    assert "network-check" in [container["name"] for container in pod_of(world)["initContainers"]]


def test_a_grader_whose_node_takes_its_pod_away_is_not_to_blame() -> None:
    world = grading()
    gone = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "drain",
    }
    pod = world.pods[world.running()][0]
    states = [{"name": "grader-polite", "state": {"terminated": {"exitCode": 137}}}]
    pod["status"] = {"phase": "Failed", "conditions": [gone], "initContainerStatuses": states}
    world.finish_job(world.running(), good=False)
    world.settle()
    assert (last(world)["reason"], last(world).get("failedGrader")) == ("Preempted", None)


def test_a_grader_ends_when_its_time_is_over_and_not_before() -> None:
    world = grading()
    started = world.now.isoformat()
    starts(world, "grader-polite", running={"startedAt": started})
    name = world.running()
    world.pass_time(299)
    assert world.running() == name
    assert "waiting" not in world.status or world.status["waiting"] is None
    world.pass_time(1)
    assert last(world)["failedGrader"] == "grader-polite"
    assert last(world)["message"].endswith("did not end within 300 s (its timeoutSeconds).")
    assert name not in world.jobs


def test_a_pod_whose_grader_runs_for_an_hour_is_not_said_to_stand_still() -> None:
    world = grading(evaluation={"graders": [{**POLITE, "timeoutSeconds": 3600}]})
    starts(world, "grader-polite", running={"startedAt": (world.now + timedelta(seconds=4000)).isoformat()})
    pod = world.pods[world.running()][0]
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": world.now.isoformat()}
    pod["status"]["conditions"] = [placed]
    world.pass_time(5000)
    assert world.status.get("waiting") is None


@pytest.mark.parametrize(
    ("reason", "condition", "seconds"),
    [
        pytest.param("ImagePullBackOff", "ImagePull", 600, id="an image that cannot be pulled"),
        pytest.param(
            "CreateContainerError", "ContainerConfig", 1800, id="a container that cannot be created"
        ),
    ],
)
def test_a_grader_that_does_not_start_is_left_out_after_the_administrators_deadline(
    reason: str, condition: str, seconds: int
) -> None:
    world = starts(grading(), "grader-polite", waiting={"reason": reason, "message": "no such thing"})
    assert world.condition("Admitted") == ("False", condition)
    assert "Grader polite (registry.example/polite@sha256:" in world.message("Admitted")
    assert "operator's settings" not in world.message("Admitted")
    world.pass_time(seconds - 1)
    assert world.condition("Admitted") == ("False", condition)
    world.pass_time(1)
    assert last(world)["failedGrader"] == "grader-polite"
    assert "no such thing" in last(world)["message"]
