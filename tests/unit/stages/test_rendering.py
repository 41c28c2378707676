"""The Jobs that stages render."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.contracts.settings import S3
from finetune_operator.observe.outcome import outcome_of
from tests.unit.stages.kubernetes_simulation import SETTINGS, KubernetesSimulation, result_of

STAGES = ("prepare", "baseline", "train", "evaluate", "publish")
Object = dict[str, Any]


def job_of(stage: str, **changes: Any) -> Object:
    world = KubernetesSimulation(**changes)
    world.claims["shared"] = {"metadata": {"uid": "shared"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.to(stage)
    found: Object = world.jobs[world.running()]
    return found


def pod_of(stage: str, **changes: Any) -> Object:
    spec: Object = job_of(stage, **changes)["spec"]["template"]["spec"]
    return spec


def main_of(stage: str, **changes: Any) -> Object:
    container: Object = pod_of(stage, **changes)["containers"][0]
    return container


def engine_of(stage: str, **changes: Any) -> Object:
    container: Object = pod_of(stage, **changes)["initContainers"][0]
    return container


def env_of(container: Object) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def mounts_of(container: Object) -> dict[str, bool]:
    return {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]}


@pytest.mark.parametrize("stage", STAGES)
def test_every_pod_is_admitted_by_pod_security_restricted_and_holds_no_credentials(stage: str) -> None:
    pod = pod_of(stage)
    context = pod["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, 10001, 10001)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        own = container["securityContext"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
        assert "/tmp" in mounts_of(container)
        assert container["resources"]["requests"] == container["resources"]["limits"] != {}
        assert env_of(container)["HOME"] == "/tmp"
        assert env_of(container)["PROXY"] == "none"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_one_indexed_job_that_never_retries_by_itself(stage: str) -> None:
    job = job_of(stage)
    spec = job["spec"]
    assert (spec["backoffLimit"], spec["completionMode"], spec["podReplacementPolicy"]) == (
        0,
        "Indexed",
        "Failed",
    )
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert "ttlSecondsAfterFinished" not in spec
    owner = job["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["controller"], owner["blockOwnerDeletion"]) == ("FineTuneJob", True, False)


@pytest.mark.parametrize("stage", STAGES)
def test_names_and_labels_lead_back_to_the_run(stage: str) -> None:
    world = KubernetesSimulation().to(stage)
    job = world.jobs[world.running()]
    assert job["metadata"]["name"] == f"run-{stage}-1-{job['metadata']['name'][-6:]}"
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels == job["metadata"]["labels"]
    assert labels == {
        "app.kubernetes.io/managed-by": "finetune-operator", "finetune.dev/kind": "FineTuneJob",
        "finetune.dev/owner": "run", "finetune.dev/uid": "u-1", "finetune.dev/stage": stage, "finetune.dev/attempt": "1",
    }  # fmt: skip
    owner = world.others["ConfigMap", world.running()]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("Job", job["metadata"]["uid"])


MOUNTS = [
    (
        "prepare",
        {"/sources/pvc/models": True, "/sources/configmap/reviews": True, "/destination/adapters": False},
    ),
    ("baseline", {"/sources/pvc/models": True, "/destination/adapters": False, "/run/engine": False}),
    ("train", {"/sources/pvc/models": True, "/dev/shm": False}),
    ("evaluate", {"/sources/pvc/models": True, "/run/engine": False}),
    ("publish", {"/sources/pvc/models": True, "/destination/adapters": False}),
]


@pytest.mark.parametrize(("stage", "own"), MOUNTS)
def test_a_stage_mounts_what_it_needs_and_nothing_else(stage: str, own: dict[str, bool]) -> None:
    common = {"/etc/finetune/job": True, "/workspace": False, "/tmp": False}
    assert mounts_of(main_of(stage)) == common | own


def test_a_claim_that_is_source_and_destination_is_one_volume() -> None:
    pod = pod_of("prepare", output={"destination": "pvc://models/out"})
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert sorted(claims) == sorted(set(claims))
    assert mounts_of(pod["containers"][0])["/sources/pvc/models"] is True
    assert mounts_of(pod["containers"][0])["/destination/models"] is False


def test_only_prepare_may_reach_a_hub() -> None:
    assert "HF_HUB_OFFLINE" not in env_of(main_of("prepare"))
    assert [env_of(main_of(s))["HF_HUB_OFFLINE"] for s in STAGES[1:]] == ["1"] * 4


def test_the_hub_of_the_administrator_is_told_to_prepare() -> None:
    world = KubernetesSimulation()
    world.settings = world.settings.model_copy(update={"hub_endpoint": "http://hub.local"})
    world.settle()
    container = world.jobs[world.running()]["spec"]["template"]["spec"]["containers"][0]
    assert env_of(container)["HF_ENDPOINT"] == "http://hub.local"


HUB = {
    "baseModel": {"source": "hf://org/model", "revision": "0" * 40, "credentialsSecretRef": {"name": "hub"}},
    "dataset": {
        "source": "hf://datasets/org/data/train.jsonl",
        "revision": "1" * 40,
        "credentialsSecretRef": {"name": "hub"},
    },
}


@pytest.mark.parametrize("stage", STAGES)
def test_secrets_are_mounted_only_into_prepare(stage: str) -> None:
    pod = pod_of(stage, **HUB)
    secrets = {v["name"]: v["projected"]["sources"] for v in pod["volumes"] if "projected" in v}
    if stage != "prepare":
        assert secrets == {}
        return
    token = {"name": "hub", "items": [{"key": "token", "path": "token"}], "optional": False}
    assert secrets == {purpose: [{"secret": token}] for purpose in ("base-model", "dataset")}
    assert mounts_of(pod["containers"][0])["/etc/finetune/credentials/base-model"] is True


KEYS = [
    ("hf://datasets/o/d/a.jsonl", ["token"], []),
    ("https://host/a.jsonl", ["token"], []),
    ("s3://bucket/a.jsonl", ["accessKeyId", "secretAccessKey"], ["sessionToken"]),
    ("gs://bucket/a.jsonl", [], ["serviceAccountJson", "token"]),
]


@pytest.mark.parametrize(("source", "required", "optional"), KEYS, ids=[k[0] for k in KEYS])
def test_a_fetch_is_given_the_keys_of_its_scheme(
    source: str, required: list[str], optional: list[str]
) -> None:
    pod = pod_of("prepare", dataset={"source": source, "credentialsSecretRef": {"name": "keys"}})
    (volume,) = [v["projected"] for v in pod["volumes"] if "projected" in v]
    found = {s["secret"]["optional"]: [i["key"] for i in s["secret"]["items"]] for s in volume["sources"]}
    assert found == {flag: keys for flag, keys in ((False, required), (True, optional)) if keys}
    assert volume["defaultMode"] == 0o440


def test_one_secret_serves_data_and_hold_out_of_different_schemes() -> None:
    reference = {"credentialsSecretRef": {"name": "keys"}}
    pod = pod_of(
        "prepare",
        dataset={"source": "gs://bucket/a.jsonl", **reference},
        evaluation={"dataset": {"source": "https://host/b.jsonl", **reference}},
    )
    (volume,) = [v["projected"] for v in pod["volumes"] if "projected" in v]
    keys = [[item["key"] for item in source["secret"]["items"]] for source in volume["sources"]]
    assert keys == [["token"], ["serviceAccountJson"]]


def test_the_s3_service_of_the_administrator_is_told_to_prepare_alone() -> None:
    s3 = S3(endpoint="http://minio.local:9000", region="eu-1")
    world = KubernetesSimulation(SETTINGS.model_copy(update={"s3": s3})).settle()
    prepare = env_of(world.jobs[world.running()]["spec"]["template"]["spec"]["containers"][0])
    assert (prepare["FT_S3_ENDPOINT"], prepare["FT_S3_REGION"]) == ("http://minio.local:9000", "eu-1")
    world.to("train")
    train = env_of(world.jobs[world.running()]["spec"]["template"]["spec"]["containers"][0])
    assert [name for name in train if name.startswith("FT_S3")] == []


def test_training_on_several_nodes_is_a_gang_behind_a_headless_service() -> None:
    world = KubernetesSimulation(resources={"nodes": 2, "processesPerNode": 2}).to("train")
    name = world.running()
    spec = world.jobs[name]["spec"]
    assert (spec["completions"], spec["parallelism"], len(world.pods[name])) == (2, 2, 2)
    service = world.others["Service", name]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    pod = spec["template"]["spec"]
    assert (pod["subdomain"], pod["terminationGracePeriodSeconds"]) == (name, 120)
    env = env_of(pod["containers"][0])
    assert (env["FT_NODES"], env["FT_PROCESSES"], env["FT_MASTER_ADDR"]) == ("2", "2", f"{name}-0.{name}")
    assert all(("Service", other) not in world.others for other in world.jobs if other != name)
    assert next(c for n, c in world.claims.items() if n.startswith("run-work"))["spec"]["accessModes"] == [
        "ReadWriteMany"
    ]


@pytest.mark.parametrize(
    ("planned", "measured", "seconds"),
    [
        (None, None, 120),
        (24_000_000, None, 121),
        (112_000_000_000, None, 680),
        (112_000_000_000, 40.0, 200),
        (980_000_000_000, None, 5020),
    ],
    ids=[
        "unknown size",
        "an adapter",
        "8B Full",
        "8B Full that was measured",
        "70B Full needs more than an hour",
    ],
)
def test_a_train_pod_gets_the_time_that_its_checkpoint_takes(
    planned: int | None, measured: float | None, seconds: int
) -> None:
    world = KubernetesSimulation().settle()
    world.end(result_of("prepare", checkpointBytes=planned)).to("train")
    if measured is not None:
        world.progress = {"schemaVersion": 1, "stage": "train", "checkpointSeconds": measured}
        world.settle()
        world.end(result_of("train", "Interrupted", "Interrupted"))
    pod = world.jobs[world.running()]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == seconds


def test_one_node_needs_no_service() -> None:
    world = KubernetesSimulation().to("train")
    pod = world.jobs[world.running()]["spec"]["template"]["spec"]
    assert "subdomain" not in pod
    env = env_of(pod["containers"][0])
    assert (env["FT_NODES"], env["FT_MASTER_ADDR"]) == ("1", "127.0.0.1")
    assert "Service" not in {kind for kind, _ in world.others}


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"gpusPerNode": 0}, None),
        ({"gpusPerNode": 0, "nodes": 2}, None),
        ({"gpusPerNode": 0, "processesPerNode": 1}, "1"),
        ({"gpusPerNode": 0, "processesPerNode": 3}, "3"),
        ({"gpusPerNode": 2}, "2"),
    ],
    ids=["left open", "left open for two nodes", "one process", "three processes", "two GPUs"],
)
def test_a_train_pod_is_told_how_many_processes_only_where_the_job_says(
    resources: dict[str, int], told: str | None
) -> None:
    assert env_of(main_of("train", resources=resources)).get("FT_PROCESSES") == told


@pytest.mark.parametrize(
    ("stage", "resources", "named"),
    [
        ("train", {"gpusPerNode": 0}, True),
        ("train", {"gpusPerNode": 0, "nodes": 2}, False),
        ("train", {"gpusPerNode": 0, "processesPerNode": 2}, False),
        ("train", {"gpusPerNode": 2}, False),
        ("prepare", {"gpusPerNode": 0}, False),
    ],
    ids=["left open", "left open for two nodes", "two processes asked for", "two GPUs", "another stage"],
)
def test_a_pod_without_memory_is_told_to_train_in_one_process_where_it_chose_the_number(
    stage: str, resources: dict[str, int], named: bool
) -> None:
    spec = pod_of(stage, resources=resources)
    killed = {"name": spec["containers"][0]["name"], "state": {"terminated": {"reason": "OOMKilled"}}}
    status = {"phase": "Failed", "containerStatuses": [killed]}
    failed = {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    outcome = outcome_of(stage, failed, [{"spec": spec, "status": status}])
    assert outcome is not None
    assert outcome.reason == "OutOfMemory"
    assert ("processesPerNode: 1" in outcome.message) is named


def test_gpus_go_to_training_and_to_the_engine_and_place_every_stage() -> None:
    changes = {"resources": {"gpusPerNode": 4, "gpuType": "h200"}, "nodeSelector": {"zone": "a"}}
    assert main_of("train", **changes)["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert engine_of("baseline", **changes)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for stage in STAGES:
        assert pod_of(stage, **changes)["nodeSelector"] == {"gpu": "h200", "zone": "a"}
    for stage in ("prepare", "publish", "baseline"):
        assert "nvidia.com/gpu" not in main_of(stage, **changes)["resources"]["limits"]
    assert env_of(main_of("train", **changes))["FT_PROCESSES"] == "4"


def test_scorer_and_engine_together_are_as_large_as_a_training_pod() -> None:
    scorer, engine = main_of("baseline"), engine_of("baseline")
    assert scorer["resources"]["limits"] == {"cpu": "250m", "memory": "1048576Ki"}
    assert engine["resources"]["limits"] == {"cpu": "1750m", "memory": "5242880Ki"}


def test_the_engine_is_a_native_sidecar_on_a_socket() -> None:
    engine = engine_of("baseline")
    assert (engine["image"], engine["restartPolicy"]) == ("serving:1", "Always")
    assert engine["startupProbe"]["exec"]["command"][:4] == ["python", "-m", "finetune_serving", "health"]
    assert engine["args"][:7] == [
        "engine",
        "--model",
        "/sources/pvc/models/small",
        "--served-name",
        "base",
        "--uds",
        "/run/engine/engine.sock",
    ]
    assert env_of(engine)["FT_ENGINE_ARGS"] == '["--enforce-eager"]'
    assert "ports" not in engine
    assert mounts_of(engine) == {
        "/workspace": True,
        "/sources/pvc/models": True,
        "/dev/shm": False,
        "/run/engine": False,
        "/tmp": False,
    }


@pytest.mark.parametrize(("rank", "flag"), [(1, "8"), (8, "8"), (9, "16"), (64, "64"), (200, "256")])
def test_the_engine_takes_the_rank_rounded_up_to_what_vllm_allows(rank: int, flag: str) -> None:
    for stage in ("baseline", "evaluate"):
        args = engine_of(stage, lora={"rank": rank})["args"]
        assert args[args.index("--max-lora-rank") + 1] == flag


def test_a_rank_that_prepare_chose_is_what_the_engine_is_told() -> None:
    args = engine_of("evaluate")["args"]
    assert args[args.index("--max-lora-rank") + 1] == "16"


def test_a_full_model_is_evaluated_from_the_workspace_and_an_adapter_on_its_base() -> None:
    assert engine_of("evaluate", method="Full")["args"][2] == "/workspace/output/model"
    assert engine_of("baseline", method="Full")["args"][2] == "/sources/pvc/models/small"
    assert engine_of("evaluate")["args"][2] == "/sources/pvc/models/small"
    assert engine_of("evaluate", **HUB)["args"][2] == "/workspace/base"


def test_shared_memory_has_the_size_that_was_asked_for() -> None:
    pod = pod_of("train", resources={"sharedMemory": "8Gi"})
    volume = next(v for v in pod["volumes"] if v["name"] == "shm")
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}


def test_tolerations_reach_every_stage() -> None:
    tolerations = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    for stage in STAGES:
        assert pod_of(stage, tolerations=tolerations)["tolerations"] == tolerations


WORKSPACES = [
    ({}, {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}}),
    (
        {"size": "5Gi", "storageClassName": "fast"},
        {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "5Gi"}},
            "storageClassName": "fast",
        },
    ),
]


@pytest.mark.parametrize(("asked", "spec"), WORKSPACES)
def test_the_workspace_is_created_once_with_prepare(asked: Object, spec: Object) -> None:
    world = KubernetesSimulation(workspace=asked).settle()
    (claim,) = [c for n, c in world.claims.items() if n.startswith("run-work-")]
    assert claim["spec"] == spec
    assert claim["metadata"]["ownerReferences"][0]["kind"] == "FineTuneJob"


def test_a_claim_of_the_user_is_the_workspace() -> None:
    world = KubernetesSimulation(workspace={"claimName": "mine"})
    world.claims["mine"] = {"metadata": {"uid": "mine"}}
    world.settle()
    assert not [n for n in world.claims if n.startswith("run-work-")]
    volumes = world.jobs[world.running()]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "claim-1", "persistentVolumeClaim": {"claimName": "mine"}} in volumes
