"""The Jobs that stages render."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from finetune_operator.contracts.settings import S3
from finetune_operator.observe.outcome import outcome_of
from tests.unit.stages.kubernetes_simulation import SETTINGS, KubernetesSimulation, result_of
from tests.unit.stages.rendered import (
    STAGES,
    Object,
    engine_of,
    env_of,
    job_of,
    main_of,
    mounts_of,
    pod_of,
    with_settings,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


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
    ("evaluate", {"/sources/pvc/models": True, "/destination/adapters": False, "/run/engine": False}),
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
    policy = world.others["NetworkPolicy", name]["spec"]
    mates = {"matchLabels": {"batch.kubernetes.io/job-name": name, "finetune.dev/uid": "u-1"}}
    assert (policy["podSelector"], policy["policyTypes"]) == (mates, ["Ingress"])
    assert policy["ingress"][0] == {"from": [{"podSelector": mates}]}
    assert [entry["port"] for entry in policy["ingress"][1]["ports"]] == [8080]
    assert service["spec"]["selector"] == mates["matchLabels"]
    pod = spec["template"]["spec"]
    assert (pod["subdomain"], pod["terminationGracePeriodSeconds"]) == (name, 120)
    env = env_of(pod["containers"][0])
    assert (env["FT_NODES"], env["FT_PROCESSES"], env["FT_MASTER_ADDR"]) == ("2", "2", f"{name}-0.{name}")
    # As long as the scheduler may take: torchrun alone waits for 15 minutes.
    assert env["FT_RENDEZVOUS_SECONDS"] == str(SETTINGS.unschedulable_deadline_seconds)
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


def test_stages_that_hold_gpus_are_told_how_long_nothing_may_go_on() -> None:
    told = {stage: env_of(main_of(stage)).get("FT_HANG_SECONDS") for stage in STAGES}
    seconds = str(SETTINGS.hang_deadline_seconds)
    assert told == {
        "prepare": None,
        "baseline": seconds,
        "train": seconds,
        "evaluate": seconds,
        "publish": None,
    }


def test_one_node_needs_neither_service_nor_policy() -> None:
    world = KubernetesSimulation().to("train")
    pod = world.jobs[world.running()]["spec"]["template"]["spec"]
    assert "subdomain" not in pod
    env = env_of(pod["containers"][0])
    assert (env["FT_NODES"], env["FT_MASTER_ADDR"]) == ("1", "127.0.0.1")
    assert {"Service", "NetworkPolicy"}.isdisjoint(kind for kind, _ in world.others)


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
    outcome = outcome_of(stage, failed, [{"spec": spec, "status": status}], NOW)
    assert outcome is not None
    assert outcome.reason == "OutOfMemory"
    assert ("processesPerNode: 1" in outcome.message) is named


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


def test_on_gpus_the_context_of_a_scoring_engine_is_what_fits() -> None:
    args = engine_of("baseline", resources={"gpusPerNode": 1})["args"]
    assert args[args.index("--max-model-len") + 1] == "-1"


def test_a_rank_that_prepare_chose_is_what_the_engine_is_told() -> None:
    args = engine_of("evaluate")["args"]
    assert args[args.index("--max-lora-rank") + 1] == "16"


def test_a_full_model_is_evaluated_from_the_workspace_and_an_adapter_on_its_base() -> None:
    assert engine_of("evaluate", method="Full")["args"][2] == "/workspace/output/model"
    assert engine_of("baseline", method="Full")["args"][2] == "/sources/pvc/models/small"
    assert engine_of("evaluate")["args"][2] == "/sources/pvc/models/small"
    assert engine_of("evaluate", **HUB)["args"][2] == "/workspace/base"


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


def folder_of(container: Object, path: str = "/workspace") -> str | None:
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == path]
    folder: str | None = mount.get("subPath")
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_runs_that_share_a_claim_work_in_folders_of_their_own(stage: str) -> None:
    shared = {"claimName": "shared"}
    name = job_of(stage)["metadata"]["name"]
    pod = pod_of(stage, workspace=shared)
    folder = f"run-{name[-6:]}"
    containers = {c["name"]: c for c in (*pod["containers"], *pod.get("initContainers", []))}
    maker = containers.pop("workspace", None)
    assert {folder_of(container) for container in containers.values()} == {folder}
    assert folder_of(main_of(stage)) is None
    assert (maker is not None) is (stage == "prepare")


def test_the_folder_of_a_run_is_made_by_the_user_that_writes_to_it() -> None:
    pod = pod_of("prepare", workspace={"claimName": "shared"})
    (maker,) = pod["initContainers"]
    folder = folder_of(pod["containers"][0])
    assert maker["command"] == ["mkdir", "-p", f"/claim/{folder}"]
    assert folder_of(maker, "/claim") is None
    assert mounts_of(maker) == {"/claim": False}
    assert "restartPolicy" not in maker
    names = {mount["name"] for mount in maker["volumeMounts"]}
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] in names]
    assert volume["persistentVolumeClaim"] == {"claimName": "shared"}


def test_a_run_keeps_its_images_and_engine_arguments_through_an_upgrade() -> None:
    world = KubernetesSimulation().to("prepare")
    images = world.settings.images.model_copy(update={"trainer": "trainer:2", "serving": "serving:2"})
    world.settings = world.settings.model_copy(update={"images": images, "engine_args": ("--dtype", "half")})
    world.to("evaluate")
    pod = world.jobs[world.running()]["spec"]["template"]["spec"]
    engine, scorer = pod["initContainers"][0], pod["containers"][0]
    assert (engine["image"], scorer["image"]) == ("serving:1", "trainer:1")
    assert env_of(engine)["FT_ENGINE_ARGS"] == '["--enforce-eager"]'


PROFILED = with_settings(
    engineProfiles={"fp8": {"args": ["--quantization", "fp8"], "env": {"A": "1", "PROXY": "mine"}}}
)
WITH_PROFILE = {"evaluation": {"engineProfile": "fp8"}}


@pytest.mark.parametrize("stage", ["baseline", "evaluate"])
def test_the_engine_beside_a_scorer_runs_by_its_profile_and_the_scorer_is_told(stage: str) -> None:
    world = KubernetesSimulation(PROFILED, **WITH_PROFILE).to(stage)
    pod = world.jobs[world.running()]["spec"]["template"]["spec"]
    engine, scorer = env_of(pod["initContainers"][0]), env_of(pod["containers"][0])
    assert json.loads(engine["FT_ENGINE_ARGS"]) == ["--enforce-eager", "--quantization", "fp8"]
    assert (engine["A"], engine["PROXY"], scorer["PROXY"]) == ("1", "mine", "none")
    job = json.loads(world.others["ConfigMap", world.running()]["data"]["job.json"])
    assert job["engine"] == {
        "image": "serving:1",
        "args": ["--enforce-eager", "--quantization", "fp8"],
        "env": {"A": "1", "PROXY": "mine"},
    }


def test_a_run_keeps_its_engine_profile_when_the_administrator_changes_or_removes_it() -> None:
    world = KubernetesSimulation(PROFILED, **WITH_PROFILE).to("train")
    world.settings = world.settings.model_copy(update={"engine_profiles": {}})
    world.to("evaluate")
    engine = world.jobs[world.running()]["spec"]["template"]["spec"]["initContainers"][0]
    assert json.loads(env_of(engine)["FT_ENGINE_ARGS"]) == ["--enforce-eager", "--quantization", "fp8"]


def test_an_engine_may_take_as_long_to_start_as_the_administrator_says() -> None:
    probe = engine_of("baseline", with_settings(engineStartSeconds=3600))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 3600


def test_variables_are_merged_by_name_and_ours_decide() -> None:
    variables = {"HF_HUB_OFFLINE": "0", "HOME": "/root", "PROXY": "mine"}
    for container in (
        main_of("train", with_settings(env=variables)),
        engine_of("baseline", with_settings(env=variables)),
    ):
        names = [entry["name"] for entry in container["env"]]
        assert len(names) == len(set(names))
        told = env_of(container)
        assert (told["HF_HUB_OFFLINE"], told["HOME"], told["PROXY"]) == ("1", "/tmp", "mine")


@pytest.mark.parametrize("stage", STAGES)
def test_the_cluster_may_choose_the_user(stage: str) -> None:
    pod = pod_of(stage, with_settings(runAsUser=None))
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert {"runAsUser", "runAsGroup", "fsGroup"}.isdisjoint(context)
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        assert env_of(container)["USER"]  # a number that the image has no name for
