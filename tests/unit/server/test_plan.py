"""The children of a ModelServer and when they are written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Apply, Manifest, Patch, Plan
from finetune_operator.serving.observed import Observed, PodState
from finetune_operator.serving.plan import plan
from finetune_operator.serving.wanted import wanted_versions

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SETTINGS = Settings.model_validate({"images": {"trainer": "t", "serving": "serving:1"}})
DIGEST = "sha256:" + "a" * 64


def server(**spec: Any) -> ModelServer:
    body = {"baseModel": {"source": "pvc://models/smollm2"}, "artifactStore": "pvc://adapters"}
    meta = {"name": "shared", "namespace": "demo", "uid": "u1", "generation": 1}
    return ModelServer.model_validate({"metadata": meta, "spec": {**body, **spec}})


def adapter(name: str, alias: str, created: str, source: str = "pvc://adapters/x") -> AdapterDeployment:
    meta = {"name": name, "namespace": "demo", "uid": name, "creationTimestamp": created}
    spec = {"serverRef": {"name": "shared"}, "alias": alias, "adapter": {"source": source, "digest": DIGEST}}
    resolved = {"source": source, "digest": DIGEST, "version": f"{alias}--{'a' * 12}"}
    return AdapterDeployment.model_validate(
        {"metadata": meta, "spec": spec, "status": {"resolved": resolved}}
    )


def applied(decided: Plan) -> dict[str, Manifest]:
    return {a.manifest["kind"]: a.manifest for a in decided.actions if isinstance(a, Apply)}


def observed_after(decided: Plan, **more: Any) -> Observed:
    made = applied(decided)
    return Observed(
        more.pop("server", server()),
        deployment=made["Deployment"],
        manifest=made["ConfigMap"],
        service=made["Service"],
        policy=made["NetworkPolicy"],
        claims={"models": {}, "adapters": {}},
        **more,
    )


def test_a_new_server_gets_its_four_children() -> None:
    decided = plan(Observed(server(), None, None), SETTINGS, NOW)
    assert set(applied(decided)) == {"Deployment", "Service", "NetworkPolicy", "ConfigMap"}
    assert all(m["metadata"]["ownerReferences"][0]["uid"] == "u1" for m in applied(decided).values())


def test_nothing_is_written_twice() -> None:
    first = plan(Observed(server(), None, None), SETTINGS, NOW)
    assert plan(observed_after(first), SETTINGS, NOW).actions == ()


def test_an_operator_with_another_image_rolls_no_server() -> None:
    first = plan(Observed(server(), None, None), SETTINGS, NOW)
    newer = SETTINGS.model_copy(
        update={"images": SETTINGS.images.model_copy(update={"serving": "serving:2"})}
    )
    assert plan(observed_after(first), newer, NOW).actions == ()


def test_a_pod_that_has_not_seen_the_manifest_is_nudged_once() -> None:
    first = plan(Observed(server(), None, None), SETTINGS, NOW)
    pod = PodState("pod-1", "p1", True, False, {"metadata": {}}, {"appliedGeneration": 1})
    nudges = plan(observed_after(first, pods=(pod,)), SETTINGS, NOW).actions
    assert [type(a) for a in nudges] == [Patch]
    seen = {"metadata": {"annotations": {"finetune.dev/manifest-generation": "1"}}}
    told = PodState("pod-1", "p1", True, False, seen, {"appliedGeneration": 1})
    assert plan(observed_after(first, pods=(told,)), SETTINGS, NOW).actions == ()


def test_the_pod_is_what_pod_security_restricted_admits() -> None:
    spec = applied(plan(Observed(server(), None, None), SETTINGS, NOW))["Deployment"]["spec"]["template"][
        "spec"
    ]
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_engine_has_no_port_and_no_keys_and_only_the_gateway_mounts_them() -> None:
    mine = server(apiKeys={"secretRef": {"name": "keys"}})
    spec = applied(plan(Observed(mine, None, None), SETTINGS, NOW))["Deployment"]["spec"]["template"]["spec"]
    engine, gateway = spec["initContainers"][-1], spec["containers"][0]
    assert "ports" not in engine
    assert "keys" not in {m["name"] for m in engine["volumeMounts"]}
    assert "keys" in {m["name"] for m in gateway["volumeMounts"]}


def test_an_hf_base_is_fetched_by_a_container_of_its_own_with_the_token() -> None:
    base = {"source": "hf://org/name", "revision": "a" * 40, "credentialsSecretRef": {"name": "hub"}}
    spec = applied(plan(Observed(server(baseModel=base), None, None), SETTINGS, NOW))["Deployment"]["spec"]
    fetch, engine = spec["template"]["spec"]["initContainers"]
    assert fetch["args"][:4] == ["fetch-base", "--source", "hf://org/name", "--revision"]
    assert "token" in {m["name"] for m in fetch["volumeMounts"]}
    assert "token" not in {m["name"] for m in engine["volumeMounts"]}


def test_the_older_of_two_deployments_with_one_alias_wins() -> None:
    old, young = (
        adapter("old", "reviews", "2026-01-01T00:00:00Z"),
        adapter("young", "reviews", "2026-01-02T00:00:00Z"),
    )
    wanted = {w.deployment: w.refusal for w in wanted_versions(server(), [young, old])}
    assert wanted["old"] is None
    assert wanted["young"] is not None
    assert wanted["young"][0] == "AliasConflict"
    assert "old" in wanted["young"][1]


REFUSED = [
    pytest.param(adapter("a", "smollm2", "t"), "AliasConflict", id="an alias that is the base's name"),
    pytest.param(
        adapter("a", "x", "t", "pvc://elsewhere/x"), "OutsideStore", id="an adapter outside the store"
    ),
]


@pytest.mark.parametrize(("deployment", "reason"), REFUSED)
def test_refused_before_any_pod_sees_it(deployment: AdapterDeployment, reason: str) -> None:
    (only,) = wanted_versions(server(), [deployment])
    assert only.refusal is not None
    assert only.refusal[0] == reason


def test_a_missing_claim_is_named() -> None:
    decided = plan(Observed(server(), None, None), SETTINGS, NOW)
    assert decided.status is not None
    ready = next(c for c in decided.status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ClaimNotFound")
    assert "adapters" in ready["message"]


BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
ENGINES = [
    pytest.param(
        {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}},
        "ErrImagePull",
        "no such image",
        id="an image that cannot be pulled",
    ),
    pytest.param(
        {"state": BACK_OFF, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
        "OutOfMemory",
        "raise spec.resources.memory",
        id="an engine that was ended for memory",
    ),
    pytest.param(
        {"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
        "OutOfMemory",
        "raise spec.resources.memory",
        id="the same while it starts again",
    ),
    pytest.param(
        {"state": BACK_OFF, "lastState": {"terminated": {"exitCode": 1, "message": "unknown option --x"}}},
        "CrashLoopBackOff",
        "exit code 1: unknown option --x",
        id="an engine that refuses its arguments",
    ),
    pytest.param({"state": {"running": {}}}, "Starting", "loading", id="an engine that loads"),
]


@pytest.mark.parametrize(("engine", "reason", "words"), ENGINES)
def test_a_replica_that_is_missing_is_explained(engine: Manifest, reason: str, words: str) -> None:
    status = {"initContainerStatuses": [{"name": "engine", **engine}]}
    pod = PodState(
        "p-0", "u-0", ready=False, terminating=False, pod={"metadata": {}, "status": status}, state=None
    )
    first = plan(Observed(server(), None, None), SETTINGS, NOW)
    decided = plan(observed_after(first, pods=(pod,)), SETTINGS, NOW)
    assert decided.status is not None
    ready = next(c for c in decided.status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert words in ready["message"]


def test_a_pod_that_waits_for_a_missing_secret_names_it_after_a_while() -> None:
    mine = server(apiKeys={"secretRef": {"name": "keys"}})
    first = plan(Observed(mine, None, None), SETTINGS, NOW)
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-23T11:59:50Z"}
    waits = {"type": "PodReadyToStartContainers", "status": "False"}
    status = {"phase": "Pending", "conditions": [placed, waits]}
    pod = PodState("p-0", "u-0", False, False, {"metadata": {}, "status": status}, None)
    seen = observed_after(first, server=mine, pods=(pod,))
    assert _ready(plan(seen, SETTINGS, NOW))[0] == "Starting"
    reason, message = _ready(plan(seen, SETTINGS, NOW + timedelta(seconds=10)))
    assert reason == "SecretOrVolumeMissing"
    assert "Secret keys" in message


def test_a_gpu_type_that_nobody_configured_gets_no_pods_and_is_named() -> None:
    mine = server(resources={"gpus": 1, "gpuType": "H900"})
    decided = plan(Observed(mine, None, None), SETTINGS, NOW)
    assert "Deployment" not in applied(decided)
    reason, message = _ready(decided)
    assert reason == "UnknownGpuType"
    assert "H900" in message


def test_several_gpus_share_one_engine() -> None:
    mine = server(resources={"gpus": 4})
    spec = applied(plan(Observed(mine, None, None), SETTINGS, NOW))["Deployment"]["spec"]["template"]["spec"]
    engine = spec["initContainers"][-1]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert engine["args"][engine["args"].index("--tensor-parallel-size") + 1] == "4"


def _ready(decided: Plan) -> tuple[str, str]:
    assert decided.status is not None
    ready = next(c for c in decided.status["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "False"
    return ready["reason"], ready["message"]


def test_the_manifest_lists_a_wanted_version_before_it_is_routed() -> None:
    mine = (adapter("a", "reviews", "t"),)
    document = json.loads(
        applied(plan(Observed(server(), None, None, deployments=mine), SETTINGS, NOW))["ConfigMap"]["data"][
            "manifest.json"
        ]
    )
    assert [v["name"] for v in document["versions"]] == [f"reviews--{'a' * 12}"]
    assert document["routes"] == []
    assert document["base"] == {"name": "smollm2", "fingerprint": None}
