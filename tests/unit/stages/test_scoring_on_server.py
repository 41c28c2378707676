"""A run that scores on a shared ModelServer: no GPU of its own, and a candidate only while pods score it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.api.modelserver import ModelServer
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation, Object, merged, result_of
from tests.unit.stages.rendered import env_of, mounts_of

BASE, OTHER = "sha256:" + "b" * 64, "sha256:" + "c" * 64
DIGEST = "sha256:" + "d" * 64
VERSION = "candidate.run--" + "d" * 12
KEY = {"name": "keys", "key": "evaluation"}
ON_GPUS: Object = {
    "resources": {"gpusPerNode": 1, "gpuType": "h200", "cpu": None, "memory": None},
    "scheduling": {"queueName": "team"},
    "evaluation": {"engine": {"serverRef": {"name": "shared"}}},
}


def server(told: str | None = BASE, candidates: Any = (), **spec: Any) -> ModelServer:
    """The ModelServer; `told` is the fingerprint that its pods told."""
    body = {"baseModel": {"source": "pvc://models/small"}, "artifactStore": "pvc://adapters", **spec}
    status = {
        "endpoint": "http://shared-server.demo.svc:8000/v1",
        "baseFingerprint": told,
        "candidates": candidates,
    }
    return ModelServer.model_validate({"metadata": {"name": "shared"}, "spec": body, "status": status})


def keyed(*allowed: str) -> Object:
    """apiKeys whose entry `evaluation` may call these models only, or all of them."""
    listed = [{"name": "evaluation", "aliases": list(allowed)}] if allowed else []
    return {"secretRef": {"name": "keys"}, "allowedAliases": listed}


def simulation(found: ModelServer | None, **changes: Any) -> KubernetesSimulation:
    """A run on GPUs that scores on this server; its prepare tells base and rank."""
    world = KubernetesSimulation(**merged(ON_GPUS, changes))
    world.server = found
    return world


def to(world: KubernetesSimulation, stage: str) -> KubernetesSimulation:
    """Until the stage is due; prepare tells the base, and Kueue, which is not here, is not asked for."""
    world.settle()
    if "-prepare-" in world.running():
        world.end(result_of("prepare", baseFingerprint=BASE))
    while f"-{stage}-" not in world.running():
        world.end()
    return world


NO_QUEUE: Object = {"scheduling": None}


@pytest.mark.parametrize("stage", ["baseline", "evaluate"])
def test_scoring_holds_no_gpu_and_has_no_engine_beside_it(stage: str) -> None:
    world = to(simulation(server(apiKeys=keyed()), evaluation={"engine": {"apiKey": KEY}}, **NO_QUEUE), stage)
    job = world.jobs[world.running()]
    pod = job["spec"]["template"]["spec"]
    (scorer,) = pod["containers"]
    assert "initContainers" not in pod
    assert "nvidia.com/gpu" not in json.dumps(pod)
    assert pod["nodeSelector"] == {}
    assert mounts_of(scorer)["/etc/finetune/credentials/engine"] is True
    assert mounts_of(scorer)["/destination/adapters"] is False
    assert "/run/engine" not in mounts_of(scorer)
    assert env_of(scorer)["FT_HANG_SECONDS"] == "1800"
    document = json.loads(world.others["ConfigMap", world.running()]["data"]["job.json"])
    asked = document["engine"]["server"]
    assert (asked["endpoint"], asked["model"], asked["key"]) == (
        "http://shared-server.demo.svc:8000/v1", "small", "evaluation",
    )  # fmt: skip
    assert asked["source"].startswith("pvc://adapters/_candidates/run-")
    (attempt,) = [a for a in world.status["attempts"] if a["stage"] == stage]
    assert "gpus" not in attempt or attempt["gpus"] == 0


def test_only_training_is_queued() -> None:
    world = simulation(server())
    world.settle()
    world.end(result_of("prepare", baseFingerprint=BASE))
    assert "kueue.x-k8s.io/queue-name" not in world.jobs[world.running()]["metadata"]["labels"]
    assert "-baseline-" in world.running()


BLOCKED = [
    pytest.param(None, {}, "ServerNotFound", id="it does not exist"),
    pytest.param(server(artifactStore="pvc://other"), {}, "OutsideStore", id="it reads another claim"),
    pytest.param(server(artifactStore="pvc://adapt"), {}, "OutsideStore", id="a claim whose name begins alike"),
    pytest.param(server(maxLoras=0), {}, "BaseOnly", id="it loads no adapters"),
    pytest.param(server(apiKeys=keyed()), {}, "ApiKeyMissing", id="it asks for a key"),
    pytest.param(
        server(apiKeys=keyed()), {"apiKey": {"name": "mine", "key": "x"}}, "ApiKeyMissing",
        id="the key is from another Secret",
    ),
    pytest.param(
        server(apiKeys=keyed("reviews")), {"apiKey": KEY}, "ApiKeyNotAllowed", id="its key may not call the base"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "engine", "reason"), BLOCKED)
def test_what_is_wrong_with_the_server_is_told_before_anything_runs(
    found: ModelServer | None, engine: Object, reason: str
) -> None:
    world = simulation(found, evaluation={"engine": engine}, **NO_QUEUE).settle()
    assert (world.created, world.condition("Stalled")) == ([], ("True", reason))
    world.server = server(apiKeys=keyed("small")) if engine else server()
    if engine.get("apiKey", KEY) == KEY:
        world.settle()
        assert "-prepare-" in world.running()


@pytest.mark.parametrize(
    ("found", "reason", "stalled"),
    [
        pytest.param(server(OTHER), "OtherBase", "True", id="it has another base"),
        pytest.param(server(maxLoraRank=8), "RankTooLarge", "True", id="the rank is too large for it"),
        pytest.param(server(replicas=0), "ServerStopped", "False", id="it is scaled to zero"),
        pytest.param(server(None), "ServerNotReady", "False", id="no replica has told its base"),
    ],
)
def test_after_prepare_the_base_is_compared(found: ModelServer, reason: str, stalled: str) -> None:
    world = simulation(found, **NO_QUEUE).settle()
    world.end(result_of("prepare", baseFingerprint=BASE))
    assert world.condition("Admitted") == ("False", reason)
    assert world.condition("Stalled")[0] == stalled
    assert [name for name in world.created if "-prepare-" not in name] == []
    world.server = server()
    assert "-baseline-" in world.settle().running()


def test_a_server_of_a_quantised_form_of_the_base_scores_its_adapters() -> None:
    quantised = {"source": "pvc://models/small-fp8", "derivedFrom": BASE}
    assert (
        "-baseline-" in to(simulation(server(OTHER, baseModel=quantised), **NO_QUEUE), "baseline").running()
    )


def rolling(
    proven: bool = False, seen: int = 2, told: str = BASE, template: str = "shared-template-1", **spec: Any
) -> ModelServer:
    """A server whose operator has seen this generation of its spec, of 2."""
    found = server(told, **spec)
    record = {
        "controllerRevision": template,
        "specDigest": OTHER,
        "cause": "Spec",
        "proven": proven,
    }
    body = found.model_dump(mode="json", by_alias=True)
    body["status"] |= {"template": record, "observedGeneration": seen}
    body["metadata"] |= {"generation": 2}
    return ModelServer.model_validate(body)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(rolling(), id="pods of the template before may answer"),
        pytest.param(rolling(proven=True, seen=1), id="its spec was changed a moment ago"),
        pytest.param(
            rolling(proven=True, baseModel={"source": "pvc://models/small", "fingerprint": OTHER}),
            id="its pods have another base than its spec asks for",
        ),
    ],
)
def test_scoring_waits_until_a_server_has_come_to_rest(found: ModelServer) -> None:
    world = simulation(found, **NO_QUEUE).settle()
    world.end(result_of("prepare", baseFingerprint=BASE))
    assert world.condition("Admitted") == ("False", "ServerRolling")
    assert world.condition("Stalled")[0] == "False"
    world.server = rolling(proven=True)
    assert "-baseline-" in world.settle().running()


@pytest.mark.parametrize("stage", ["baseline", "evaluate"])
def test_answers_of_pods_of_two_templates_are_asked_again(stage: str) -> None:
    world = to(simulation(rolling(proven=True), **NO_QUEUE), stage)
    world.server = rolling(proven=True, template="shared-template-2")
    world.end()
    first, second = [one for one in world.status["attempts"] if one["stage"] == stage]
    assert (first["state"], first["reason"]) == ("Failed", "ServerRolled")
    assert second["serverTemplate"] == "shared-template-2"
    assert f"-{stage}-2-" in world.running()
    world.end()
    assert f"-{stage}-" not in (world.running() or "")


def test_a_run_without_an_evaluation_needs_no_server() -> None:
    world = simulation(None, **NO_QUEUE)
    world.object["spec"]["evaluation"] = {**ON_GPUS["evaluation"], "accept": ["EvalMissing"]}
    assert "-prepare-" in world.settle().running()


@pytest.mark.parametrize("stage", ["prepare", "baseline", "evaluate"])
def test_a_server_that_goes_before_job_json_is_written_is_waited_for(stage: str) -> None:
    world = simulation(server(), **NO_QUEUE)
    while not any(f"-{stage}-" in name for name in world.jobs):
        if not world.reconcile():
            prepares = "-prepare-" in world.running()
            world.end_job(result_of("prepare", baseFingerprint=BASE) if prepares else None)
    world.server = None
    name = world.settle().running()
    assert f"-{stage}-" in name
    assert ("ConfigMap", name) not in world.others
    assert world.condition("Stalled") == ("True", "ServerNotFound")
    world.server = server()
    world.settle()
    document = json.loads(world.others["ConfigMap", name]["data"]["job.json"])
    assert document["engine"]["server"]["model"] == "small"
    assert world.condition("Stalled")[0] == "False"


def scoring(candidates: Any = (), told: str = DIGEST) -> KubernetesSimulation:
    """A run whose scorer has just published its candidate."""
    world = to(simulation(server(), **NO_QUEUE), "evaluate")
    world.progress = {"stage": "evaluate", "step": 0, "totalSteps": 150, "candidate": told}
    world.server = server(candidates=candidates)
    return world.settle()


def state(state: str, reason: str, message: str = "Why.") -> list[Object]:
    return [{"fineTuneJob": "run", "version": VERSION, "state": state, "reason": reason, "message": message}]


def test_the_candidate_is_asked_for_once_its_scorer_has_published_it() -> None:
    world = scoring()
    asked = world.status["candidate"]
    assert asked["source"].startswith("pvc://adapters/_candidates/run-")
    assert (asked["server"], asked["version"], asked["digest"]) == ("shared", VERSION, DIGEST)
    assert "waiting" not in world.status


@pytest.mark.parametrize("told", ["", "sha256:x", "../../etc", "sha256:" + "D" * 64], ids=str)
def test_what_is_no_digest_is_not_asked_for(told: str) -> None:
    assert "candidate" not in scoring(told=told).status


def test_a_candidate_that_waits_for_a_slot_is_shown_with_the_reason() -> None:
    world = scoring(state("Pending", "WaitingForSlot", "All 8 adapter slots are taken."))
    assert world.condition("Admitted") == ("False", "WaitingForSlot")
    assert "All 8 adapter slots" in world.status["waiting"]["message"]
    assert world.status["candidate"]["version"] == VERSION
    world.server = server(candidates=state("Ready", "Ready"))
    world.settle()
    assert "waiting" not in world.status
    assert world.condition("Admitted")[0] == "True"


@pytest.mark.parametrize("held", ["Ready", "Loading"])
def test_a_candidate_on_its_way_is_no_trouble(held: str) -> None:
    assert "waiting" not in scoring(state(held, held)).status


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        pytest.param({"stage": "evaluate", "candidate": None}, False, id="its judge works"),
        pytest.param(None, True, id="it is silent"),
    ],
)
def test_the_wish_ends_once_the_scorer_says_that_every_question_is_answered(told: Any, kept: bool) -> None:
    world = scoring()
    world.progress = told
    world.settle()
    assert ("candidate" in world.status) == kept
    assert "-evaluate-" in world.running()


ENDS = [
    pytest.param(lambda world: world.end(), id="it succeeded"),
    pytest.param(lambda world: world.fail("Unknown"), id="the scorer crashed"),
    pytest.param(
        lambda world: world.end(result_of("evaluate", "Failed", "UserError")), id="it failed for good"
    ),
    pytest.param(lambda world: world.change(suspend=True), id="the run is suspended"),
]


@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_the_scorer_ends_the_wish(end: Any) -> None:
    world = scoring()
    world.progress = None
    end(world)
    assert "candidate" not in world.status


def test_a_job_that_somebody_deleted_takes_the_wish_along() -> None:
    world = scoring()
    world.progress = None
    name = world.running()
    world.delete_children(name, world.jobs.pop(name)["metadata"]["uid"])
    world.settle()
    assert "candidate" not in world.status


def test_a_resumed_run_asks_again() -> None:
    world = scoring()
    told, world.progress = world.progress, None
    world.change(suspend=True)
    world.change(suspend=False)
    world.progress = told
    world.settle()
    assert world.status["candidate"]["version"] == VERSION
