"""The pods of a ModelServer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import Settings, parse_settings
from finetune_operator.core.actions import Manifest
from finetune_operator.serving.observed import Observed
from finetune_operator.serving.plan import plan
from finetune_operator.serving.pod import pod_template
from tests.unit.server.builders import NOW, applied

Object = dict[str, Any]
BUCKET = {
    "source": "s3://models/team/base",
    "fingerprint": "sha256:" + "b" * 64,
    "credentialsSecretRef": {"name": "bucket"},
}
HUB = {"source": "hf://org/name", "revision": "a" * 40, "credentialsSecretRef": {"name": "hub"}}


def settings(**changes: Any) -> Settings:
    return parse_settings(json.dumps({"images": {"trainer": "t", "serving": "serving:1"}, **changes}))


def server(**spec: Any) -> ModelServer:
    body = {"baseModel": {"source": "pvc://models/smollm2"}, "artifactStore": "pvc://adapters", **spec}
    metadata = {"name": "shared", "namespace": "demo", "uid": "u1"}
    return ModelServer.model_validate({"metadata": metadata, "spec": body})


def template(given: Settings | None = None, **spec: Any) -> Manifest:
    return pod_template(server(**spec), given or settings(), "serving:1", {"finetune.dev/owner": "shared"})


def containers(pod: Object) -> dict[str, Object]:
    return {c["name"]: c for c in (*pod["initContainers"], *pod["containers"])}


def env_of(container: Object) -> dict[str, str]:
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry["value"] for entry in container["env"]}


def mounts_of(container: Object) -> dict[str, bool]:
    return {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]}


CLAIMS = [
    ("pvc://team.models/base", "pvc://team.adapters"),
    ("pvc://" + "a" * 60 + "-models/base", "pvc://" + "a" * 60 + "-adapters"),
]


@pytest.mark.parametrize(("base", "store"), CLAIMS, ids=["dots in names", "long names that begin alike"])
def test_every_claim_is_a_volume_of_its_own_whatever_its_name(base: str, store: str) -> None:
    pod = template(baseModel={"source": base}, artifactStore=store)["spec"]
    claims = {v["name"]: v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert sorted(claims) == ["claim-1", "claim-2"]
    assert {c["claimName"] for c in claims.values()} == {a.split("/")[2] for a in (base, store)}
    assert all(claim["readOnly"] for claim in claims.values())


def test_one_claim_for_base_and_adapters_is_mounted_once() -> None:
    pod = template(baseModel={"source": "pvc://adapters/smollm2"})["spec"]
    assert len([v for v in pod["volumes"] if "persistentVolumeClaim" in v]) == 1
    paths = [m["mountPath"] for m in containers(pod)["gateway"]["volumeMounts"]]
    assert paths.count("/sources/pvc/adapters") == 1


def test_every_mount_has_its_volume_and_every_volume_is_mounted() -> None:
    pod = template(baseModel=HUB, apiKeys={"secretRef": {"name": "keys"}})["spec"]
    mounted = {m["name"] for container in containers(pod).values() for m in container["volumeMounts"]}
    names = [volume["name"] for volume in pod["volumes"]]
    assert len(names) == len(set(names))
    assert mounted == set(names)


def test_the_administrators_variables_are_merged_by_name() -> None:
    given = settings(
        env={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://other", "PROXY": "p"},
        hubEndpoint="http://hub.local",
    )
    found = containers(template(given, baseModel=HUB)["spec"])
    assert env_of(found["engine"])["HF_HUB_OFFLINE"] == "1"
    assert env_of(found["fetch-base"])["HF_ENDPOINT"] == "http://hub.local"
    assert {env_of(container)["PROXY"] for container in found.values()} == {"p"}


def test_each_container_sees_what_it_needs_and_nothing_else() -> None:
    found = containers(template(baseModel=HUB, apiKeys={"secretRef": {"name": "keys"}})["spec"])
    assert mounts_of(found["fetch-base"]) == {
        "/tmp": False, "/models": False, "/etc/finetune/credentials/base-model": True,
    }  # fmt: skip
    assert mounts_of(found["engine"]) == {
        "/tmp": False, "/models": True, "/adapters": True, "/run/engine": False, "/dev/shm": False,
    }  # fmt: skip
    assert mounts_of(found["gateway"]) == {
        "/tmp": False, "/models": True, "/adapters": False, "/run/engine": False,
        "/etc/finetune/server": True, "/etc/finetune/keys": True, "/sources/pvc/adapters": True,
    }  # fmt: skip


def test_the_pod_is_placed_by_the_gpu_type_and_the_spec() -> None:
    gpu = {
        "nodeSelector": {"gpu": "h200"}, "tolerations": [{"key": "gpu"}], "labels": {"network": "fast"},
        "runtimeClassName": "nvidia", "priorityClassName": "low", "env": {"NCCL_P2P_LEVEL": "NVL"},
        "extraResources": {"rdma/hca": "1"}, "ipcLock": True,
    }  # fmt: skip
    asked = {"labels": {"team": "reviews"}, "imagePullSecrets": [{"name": "registry"}]}
    made = template(
        settings(gpuTypes={"h200": gpu}),
        resources={"gpus": 2, "gpuType": "h200"},
        nodeSelector={"pool": "serving"},
        tolerations=[{"key": "team"}],
        podTemplate=asked,
        scheduling={"priorityClassName": "high"},
    )
    pod = made["spec"]
    assert made["metadata"]["labels"] == {
        "network": "fast",
        "team": "reviews",
        "finetune.dev/owner": "shared",
    }
    assert pod["nodeSelector"] == {"gpu": "h200", "pool": "serving"}
    assert pod["tolerations"] == [{"key": "gpu"}, {"key": "team"}]
    assert (pod["runtimeClassName"], pod["priorityClassName"]) == ("nvidia", "high")
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    engine = containers(pod)["engine"]
    assert env_of(engine)["NCCL_P2P_LEVEL"] == "NVL"
    assert "rdma/hca" not in engine["resources"]["limits"]  # one pod needs no network between GPUs
    assert "add" not in engine["securityContext"]["capabilities"]


def test_the_cluster_may_choose_the_user() -> None:
    pod = template(settings(runAsUser=None), baseModel=HUB)["spec"]
    assert {"runAsUser", "runAsGroup", "fsGroup"}.isdisjoint(pod["securityContext"])
    assert all(env_of(container)["USER"] for container in containers(pod).values())


SIZES = [
    pytest.param({"gpus": 2}, {}, {"cpu": "2000m", "memory": "8388608Ki"}, id="nobody says how large"),
    pytest.param(
        {"gpus": 2}, {"cpuPerGpu": "8", "memoryPerGpu": "64Gi"}, {"cpu": "16000m", "memory": "134217728Ki"},
        id="the administrator, for each GPU",
    ),
    pytest.param(
        {"gpus": 2, "cpu": "10", "memory": "80Gi"}, {"cpuPerGpu": "8"}, {"cpu": "10", "memory": "80Gi"},
        id="the spec",
    ),
    pytest.param({"gpus": 0}, {}, {"cpu": "250m", "memory": "1Gi"}, id="on the CPU"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "gpu", "requests"), SIZES)
def test_the_engine_requests_what_it_needs(asked: Object, gpu: Object, requests: Object) -> None:
    typed = {**asked, "gpuType": "h200"} if asked["gpus"] else asked
    resources = containers(template(settings(gpuTypes={"h200": gpu}), resources=typed)["spec"])["engine"][
        "resources"
    ]
    given = {key: resources["requests"][key] for key in ("cpu", "memory")}
    assert given == requests
    assert resources["requests"]["ephemeral-storage"] == "2Gi"


def test_no_container_is_without_requests_and_the_disk_is_bounded_as_the_spec_says() -> None:
    pod = template(baseModel=HUB, resources={"gpus": 1, "ephemeralStorage": "200Gi"})["spec"]
    for container in containers(pod).values():
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert containers(pod)["engine"]["resources"]["requests"]["ephemeral-storage"] == "200Gi"
    sizes = {v["name"]: v["emptyDir"].get("sizeLimit") for v in pod["volumes"] if "emptyDir" in v}
    assert (sizes["base"], sizes["adapters"]) == ("200Gi", "200Gi")
    assert sizes["shm"] == "2Gi"
    assert None not in sizes.values()


def test_an_engine_may_take_as_long_to_start_as_the_administrator_says() -> None:
    probe = containers(template(settings(engineStartSeconds=7200))["spec"])["engine"]["livenessProbe"]
    assert probe["exec"]["command"][-2:] == ["--start-seconds", "7200"]


def test_the_gateway_does_not_wait_for_the_engine_and_ends_before_it() -> None:
    engine = containers(template()["spec"])["engine"]
    assert "startupProbe" not in engine, "the kubelet would start the gateway only once it has answered"
    assert engine["restartPolicy"] == "Always", "a sidecar, which ends after the containers"


def test_a_pod_may_end_as_late_as_its_last_request() -> None:
    pod = template(drainSeconds=900, propagationSeconds=20)["spec"]
    gateway = containers(pod)["gateway"]
    assert gateway["lifecycle"]["preStop"]["sleep"]["seconds"] == 20
    assert value_of(gateway, "--drain-seconds") == "900"
    assert pod["terminationGracePeriodSeconds"] == 20 + 900 + 30


def test_one_answer_that_it_is_not_ready_takes_a_pod_out_of_the_service() -> None:
    probe = containers(template()["spec"])["gateway"]["readinessProbe"]
    assert (probe["failureThreshold"], probe["httpGet"]["path"]) == (1, "/readyz")


def test_replicas_of_one_template_are_spread_over_nodes_and_zones_as_far_as_there_is_room() -> None:
    found = template()["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in found] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for one in found:
        assert one["whenUnsatisfiable"] == "ScheduleAnyway"
        assert one["labelSelector"]["matchLabels"]["finetune.dev/owner"] == "shared"


def value_of(container: Object, option: str) -> str:
    args: list[str] = container["args"]
    return args[args.index(option) + 1]


def test_containers_share_no_folder_of_temporary_files() -> None:
    found = containers(template(baseModel=HUB)["spec"])
    volumes = [m["name"] for c in found.values() for m in c["volumeMounts"] if m["mountPath"] == "/tmp"]
    assert len(set(volumes)) == len(volumes) == len(found)


PROFILES = {"tools": {"args": ["--tool-call-parser", "hermes"], "env": {"A": "profile", "B": "b"}}}


def test_an_engine_profile_follows_what_all_engines_get_and_reaches_no_other_container() -> None:
    given = settings(engineArgs=["--seed", "1"], engineProfiles=PROFILES, env={"A": "all"})
    found = containers(template(given, engineProfile="tools")["spec"])
    engine = env_of(found["engine"])
    assert json.loads(engine["FT_ENGINE_ARGS"]) == ["--seed", "1", "--tool-call-parser", "hermes"]
    assert (engine["A"], engine["B"]) == ("profile", "b")
    assert env_of(found["gateway"])["A"] == "all"


def test_a_server_without_a_profile_gets_none() -> None:
    given = settings(engineProfiles=PROFILES)
    assert env_of(containers(template(given)["spec"])["engine"])["FT_ENGINE_ARGS"] == "[]"


def test_an_engine_profile_that_nobody_configured_gets_no_pods_and_is_named() -> None:
    decided = plan(Observed(server(engineProfile="fast"), None, None), settings(engineProfiles=PROFILES), NOW)
    assert "Deployment" not in applied(decided)
    assert decided.status is not None
    (stalled,) = [c for c in decided.status["conditions"] if c["type"] == "Stalled"]
    assert (stalled["status"], stalled["reason"]) == ("True", "UnknownEngineProfile")
    assert "known: tools" in stalled["message"]


def test_a_server_without_slots_runs_an_engine_without_adapters() -> None:
    engine = containers(template(maxLoras=0)["spec"])["engine"]
    assert value_of(engine, "--max-loras") == "0"


def test_the_gateway_is_told_which_model_a_quantised_base_comes_from() -> None:
    origin = "sha256:" + "0" * 64
    base = {"source": "pvc://models/fp8", "derivedFrom": origin}
    assert value_of(containers(template(baseModel=base)["spec"])["gateway"], "--derived-from") == origin


CACHE = {"claimName": "cache"}


def test_a_cached_base_is_written_by_its_fetcher_alone_and_the_engine_keeps_what_it_compiles() -> None:
    pod = template(baseModel=HUB, cache=CACHE)["spec"]
    found = containers(pod)
    assert [c["name"] for c in pod["initContainers"]] == ["cache-folders", "fetch-base", "engine"]
    folder = f"/cache/models/org--name/{'a' * 40}"
    assert value_of(found["fetch-base"], "--to") == value_of(found["engine"], "--model") == folder
    assert value_of(found["gateway"], "--model") == folder
    assert mounts_of(found["fetch-base"])["/cache/models"] is False
    assert {mounts_of(found[name])["/cache/models"] for name in ("engine", "gateway")} == {True}
    assert mounts_of(found["engine"])["/cache/compiled"] is False
    assert "/cache/compiled" not in mounts_of(found["gateway"])
    assert env_of(found["engine"])["VLLM_CACHE_ROOT"].startswith("/cache/compiled/")


def test_a_base_in_a_bucket_is_fetched_by_its_fingerprint_with_its_keys() -> None:
    given = settings(s3={"endpoint": "https://minio:9000", "region": "eu-1"})
    pod = template(given, baseModel=BUCKET)["spec"]
    found = containers(pod)
    fetch = found["fetch-base"]
    assert value_of(fetch, "--source") == "s3://models/team/base"
    assert value_of(fetch, "--fingerprint") == BUCKET["fingerprint"]
    assert "--revision" not in fetch["args"]
    assert value_of(fetch, "--to") == value_of(found["engine"], "--model") == "/models/base"
    assert (env_of(fetch)["FT_S3_ENDPOINT"], env_of(fetch)["FT_S3_REGION"]) == ("https://minio:9000", "eu-1")
    assert "/etc/finetune/credentials/base-model" in mounts_of(fetch)
    assert "/etc/finetune/credentials/base-model" not in mounts_of(found["gateway"])


def test_a_cached_base_of_a_bucket_is_called_by_its_content() -> None:
    found = containers(template(baseModel=BUCKET, cache=CACHE)["spec"])
    assert value_of(found["fetch-base"], "--to") == f"/cache/models/sha256-{'b' * 64}"
    assert value_of(found["gateway"], "--model") == f"/cache/models/sha256-{'b' * 64}"


def test_a_base_on_a_claim_stays_there_and_only_what_is_compiled_is_cached() -> None:
    pod = template(cache=CACHE)["spec"]
    assert [c["name"] for c in pod["initContainers"]] == ["cache-folders", "engine"]
    assert value_of(containers(pod)["engine"], "--model") == "/sources/pvc/models/smollm2"


def test_a_claim_that_holds_cache_and_adapters_is_one_volume_that_can_be_written() -> None:
    pod = template(baseModel=HUB, cache={"claimName": "adapters"})["spec"]
    claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [{"claimName": "adapters"}]
    assert mounts_of(containers(pod)["gateway"])["/sources/pvc/adapters"] is True


def test_a_server_that_asks_for_what_is_not_allowed_gets_no_pods_and_says_so() -> None:
    mine = server(podTemplate={"serviceAccountName": "root"})
    decided = plan(Observed(mine, None, None), settings(), NOW)
    assert "Deployment" not in applied(decided)
    assert decided.status is not None
    (ready,) = [c for c in decided.status["conditions"] if c["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "NotAllowed")
    assert "allowedServiceAccounts" in ready["message"]
