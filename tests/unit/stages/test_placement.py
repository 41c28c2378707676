"""Where the pods of a run are placed, what they carry, and how large they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.contracts.settings import Settings
from finetune_operator.render.pod import PodParts, stage_pod
from finetune_operator.render.resources import in_gib, times
from finetune_operator.render.volumes import common
from tests.unit.stages.kubernetes_simulation import SETTINGS, KubernetesSimulation
from tests.unit.stages.rendered import (
    STAGES,
    Object,
    engine_of,
    env_of,
    main_of,
    pod_of,
    template_of,
    with_settings,
)

TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
MINE = {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}
ZONE = {"topology.kubernetes.io/zone": "a"}
GPU_STAGES, CPU_STAGES = ("baseline", "train", "evaluate"), ("prepare", "publish")


def gpu_settings(**fields: Any) -> Settings:
    """One GPU type with these fields, and CPU stages with nodes of their own."""
    cpu = {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"key": "cpu"}]}
    return with_settings(gpuTypes={"h200": fields}, cpuStages=cpu)


def on(nodes: int = 1, gpus: int = 8, **more: Any) -> Object:
    return {
        "resources": {
            "nodes": nodes,
            "gpusPerNode": gpus,
            "gpuType": "h200",
            "cpu": None,
            "memory": None,
            **more,
        }
    }


def reemitting(settings: Settings, **changes: Any) -> Object:
    """The pod that emits a lost result of training again."""
    world = KubernetesSimulation(settings, **changes).to("train")
    world.jobs[world.running()]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    world.pods.clear()
    world.settle()
    job = world.jobs[world.running()]
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][0] == "reemit"
    template: Object = job["spec"]["template"]["spec"]
    return template


def test_stages_with_gpus_run_where_the_gpu_type_and_the_spec_say() -> None:
    settings = gpu_settings(nodeSelector={"gpu": "h200", **ZONE}, tolerations=[TAINT])
    for stage in GPU_STAGES:
        pod = pod_of(stage, settings, **on(), nodeSelector={"pool": "big"}, tolerations=[MINE])
        assert pod["nodeSelector"] == {"gpu": "h200", "pool": "big", **ZONE}
        assert pod["tolerations"] == [TAINT, MINE]


def test_stages_without_gpus_run_where_the_administrator_says_and_the_workspace_can_be_bound() -> None:
    settings = gpu_settings(nodeSelector={"gpu": "h200", **ZONE}, tolerations=[TAINT])
    region = {"topology.kubernetes.io/region": "eu"}
    changes = {**on(), "nodeSelector": {"pool": "big", **region}, "tolerations": [MINE]}
    pods = [pod_of(stage, settings, **changes) for stage in CPU_STAGES]
    for pod in (*pods, reemitting(settings, **changes)):
        assert pod["nodeSelector"] == {"pool": "cpu", **ZONE, **region}
        assert pod["tolerations"] == [{"key": "cpu"}]


ZONES = [
    ("topology.kubernetes.io/zone", True),
    ("topology.kubernetes.io/region", True),
    ("topology.gke.io/zone", True),
    ("topology.ebs.csi.aws.com/zone", True),
    ("failure-domain.beta.kubernetes.io/zone", True),
    ("topology.example.com/rack", False),
    ("kubernetes.io/hostname", False),
    ("example.com/zone", False),
    ("nvidia.com/gpu.product", False),
]


@pytest.mark.parametrize(("label", "taken"), ZONES, ids=[label for label, _ in ZONES])
def test_zone_and_region_alone_are_taken_over_from_the_nodes_of_the_gpus(label: str, taken: bool) -> None:
    pod = pod_of("prepare", gpu_settings(nodeSelector={label: "a"}), **on())
    assert (label in pod["nodeSelector"]) is taken


def test_a_run_without_gpus_has_one_sort_of_nodes() -> None:
    changes = {"nodeSelector": {"pool": "big"}, "tolerations": [MINE]}
    for stage in STAGES:
        pod = pod_of(stage, gpu_settings(), **changes)
        assert pod["nodeSelector"] == {"pool": "big"}
        assert MINE in pod["tolerations"]


def test_the_administrators_classes_and_labels_are_for_pods_with_gpus() -> None:
    settings = gpu_settings(
        labels={"network": "fast"},
        annotations={"example.com/networks": "rdma"},
        env={"NCCL_IB_HCA": "mlx5", "PROXY": "none of it"},
        runtimeClassName="nvidia",
        schedulerName="volcano",
        priorityClassName="training",
    )
    for stage in STAGES:
        template = template_of(stage, settings, **on())
        pod = template["spec"]
        classes = [pod.get(name) for name in ("runtimeClassName", "schedulerName", "priorityClassName")]
        holds = stage in GPU_STAGES
        assert classes == (["nvidia", "volcano", "training"] if holds else [None, None, None])
        assert (template["metadata"]["labels"].get("network") == "fast") is holds
        assert template["metadata"].get("annotations") == (
            {"example.com/networks": "rdma"} if holds else None
        )
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert env_of(container).get("NCCL_IB_HCA") == ("mlx5" if holds else None)


def test_what_the_spec_asks_for_is_on_every_pod() -> None:
    template = {
        "labels": {"team": "reviews", "network": "slow"},
        "annotations": {"sidecar.istio.io/inject": "false"},
        "serviceAccountName": "trainer",
        "imagePullSecrets": [{"name": "registry"}],
    }
    allowed = {"allowedServiceAccounts": ["trainer"], "allowedPriorityClasses": ["low"]}
    settings = with_settings(
        gpuTypes={"h200": {"labels": {"network": "fast"}, "priorityClassName": "high"}}, **allowed
    )
    for stage in STAGES:
        made = template_of(
            stage, settings, **on(), podTemplate=template, scheduling={"priorityClassName": "low"}
        )
        labels, pod = made["metadata"]["labels"], made["spec"]
        assert (labels["team"], labels["network"], labels["finetune.dev/stage"]) == ("reviews", "slow", stage)
        assert made["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
        assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("trainer", "low")
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["automountServiceAccountToken"] is False


NOT_ALLOWED = [
    pytest.param({"podTemplate": {"serviceAccountName": "root"}}, "allowedServiceAccounts", id="an account"),
    pytest.param(
        {"scheduling": {"priorityClassName": "high"}}, "allowedPriorityClasses", id="a priority class"
    ),
]


@pytest.mark.parametrize(("changes", "setting"), NOT_ALLOWED)
def test_a_run_waits_for_what_the_administrator_does_not_allow(changes: Object, setting: str) -> None:
    world = KubernetesSimulation(**changes).settle()
    assert world.jobs == {}
    assert world.condition("Admitted") == ("False", "NotAllowed")
    assert setting in world.message("Admitted")


def anti_affinity(pod: Object) -> Object:
    found: Object = pod["affinity"]["podAntiAffinity"]
    return found


def test_pods_of_a_gang_with_gpus_are_never_on_one_node() -> None:
    world = KubernetesSimulation(gpu_settings(), **on(nodes=2, gpus=4)).to("train")
    name = world.running()
    affinity = world.jobs[name]["spec"]["template"]["spec"]["affinity"]
    mates = {"matchLabels": {"batch.kubernetes.io/job-name": name}}
    term = {"labelSelector": mates, "topologyKey": "kubernetes.io/hostname"}
    assert affinity == {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_pods_of_a_gang_on_the_cpu_may_share_a_node_where_there_is_no_other() -> None:
    pod = pod_of("train", resources={"gpusPerNode": 0, "nodes": 2})
    assert list(anti_affinity(pod)) == ["preferredDuringSchedulingIgnoredDuringExecution"]


def test_a_gang_is_kept_together_where_the_administrator_says_what_is_near() -> None:
    settings = gpu_settings(topologyKey="topology.example.com/rack")
    pod = pod_of("train", settings, **on(nodes=2))
    (preferred,) = pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["podAffinityTerm"]["topologyKey"] == "topology.example.com/rack"
    assert "affinity" not in pod_of("train", settings, **on(nodes=1))
    assert "affinity" not in pod_of("baseline", settings, **on(nodes=2))


def test_a_gang_keeps_its_distance_from_bad_nodes_too() -> None:
    job = FineTuneJob.model_validate(KubernetesSimulation(**on(nodes=2)).object)
    attempt = Attempt(stage="train", number=3, job="run-train-3-abcdef", state="Recorded")
    parts = PodParts("train", common(job, attempt.job), {}, nodes=2, avoided_nodes=("node-1", "node-2"))
    affinity = stage_pod(job, SETTINGS, attempt, parts)["spec"]["affinity"]
    assert set(affinity) == {"nodeAffinity", "podAntiAffinity"}
    (preferred,) = affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    # The API server takes one value of a field at a time.
    assert [field["values"] for field in preferred["preference"]["matchFields"]] == [["node-1"], ["node-2"]]


@pytest.mark.parametrize(("nodes", "has"), [(1, False), (2, True)], ids=["one node", "two nodes"])
def test_network_devices_and_ipc_lock_are_for_pods_that_train_over_the_network(nodes: int, has: bool) -> None:
    settings = gpu_settings(extraResources={"rdma/hca": "1", "hugepages-2Mi": "5120Mi"}, ipcLock=True)
    for stage in STAGES:
        main = main_of(stage, settings, **on(nodes=nodes))
        gets = has and stage == "train"
        for amounts in main["resources"].values():
            assert (amounts.get("rdma/hca") == "1") is gets
        assert main["securityContext"]["capabilities"].get("add") == (["IPC_LOCK"] if gets else None)
        assert main["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_stages_without_gpus_are_as_large_as_the_administrator_says() -> None:
    cpu = {"cpu": "500m", "memory": "1Gi", "ephemeralStorage": "3Gi"}
    settings = with_settings(cpuStages=cpu)
    large = {"gpusPerNode": 8, "cpu": "90", "memory": "1800Gi"}
    resources = [main_of(stage, settings, resources=large)["resources"] for stage in CPU_STAGES]
    for own in (*resources, reemitting(settings, resources=large)["containers"][0]["resources"]):
        assert own["limits"] == {"memory": "1Gi"}
        assert own["requests"] == {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "3Gi"}


def test_a_training_pod_gets_what_the_spec_gives() -> None:
    resources = main_of("train", SETTINGS, **on(cpu="90", memory="1800Gi"))["resources"]
    assert resources["limits"] == {"cpu": "90", "memory": "1800Gi", "nvidia.com/gpu": "8"}
    assert resources["requests"] == {**resources["limits"], "ephemeral-storage": "2Gi"}


def test_a_training_pod_gets_for_each_gpu_what_the_administrator_gives() -> None:
    settings = gpu_settings(cpuPerGpu="11500m", memoryPerGpu="200Gi")
    limits = main_of("train", settings, **on(cpu="32"))["resources"]["limits"]
    assert limits == {"cpu": "32", "memory": f"{1600 * 1024**2}Ki", "nvidia.com/gpu": "8"}


def test_a_pod_of_which_nobody_says_how_large_it_is_requests_enough_not_to_be_evicted_first() -> None:
    resources = main_of("train", SETTINGS, **on())["resources"]
    assert resources["limits"] == {"nvidia.com/gpu": "8"}
    assert resources["requests"] == {
        "cpu": "8000m", "memory": f"{32 * 1024**2}Ki", "ephemeral-storage": "2Gi", "nvidia.com/gpu": "8",
    }  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_no_pod_is_best_effort(stage: str, gpus: int) -> None:
    pod = pod_of(stage, resources={"gpusPerNode": gpus, "cpu": None, "memory": None})
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])


def test_every_folder_of_a_pod_has_a_limit() -> None:
    for stage in STAGES:
        folders = [v["emptyDir"] for v in pod_of(stage)["volumes"] if "emptyDir" in v]
        assert folders
        assert all("sizeLimit" in folder for folder in folders)


@pytest.mark.parametrize(
    ("planned", "gpus", "parallel"),
    [(None, "1", None), (1, "1", None), (4, "4", "4"), (8, "8", "8")],
    ids=["no plan", "a base that fits one", "a base that needs four", "a base that needs all"],
)
def test_an_engine_has_as_many_gpus_as_the_base_needs(
    planned: int | None, gpus: str, parallel: str | None
) -> None:
    world = KubernetesSimulation(**on()).settle()
    plan = {} if planned is None else {"plan": {"scoringGpus": planned}}
    world.object["status"] = {**world.status, **plan}
    world.end().settle()
    engine = world.jobs[world.running()]["spec"]["template"]["spec"]["initContainers"][0]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == gpus
    options = dict(zip(engine["args"][1::2], engine["args"][2::2], strict=True))
    assert options.get("--tensor-parallel-size") == parallel
    (attempt,) = [a for a in world.status["attempts"] if a["stage"] == "baseline"]
    assert attempt["gpus"] == int(gpus)


def test_a_scoring_pod_leaves_the_rest_of_the_node_to_others() -> None:
    changes = on(gpus=8, cpu="80", memory="1600Gi")
    scorer, engine = (
        main_of("baseline", **changes)["resources"],
        engine_of("baseline", **changes)["resources"],
    )
    assert scorer["limits"] == {"cpu": "250m", "memory": "1048576Ki"}
    assert engine["limits"] == {"cpu": "9750m", "memory": f"{199 * 1024**2}Ki", "nvidia.com/gpu": "1"}


def test_scorer_and_engine_on_the_cpu_together_are_as_large_as_a_training_pod() -> None:
    scorer, engine = main_of("baseline"), engine_of("baseline")
    assert scorer["resources"]["limits"] == {"cpu": "250m", "memory": "1048576Ki"}
    assert engine["resources"]["limits"] == {"cpu": "1750m", "memory": "5242880Ki"}


SHARED_MEMORY = [
    pytest.param("train", SETTINGS, {"gpusPerNode": 8}, "16Gi", id="two gibibytes for each GPU"),
    pytest.param("baseline", SETTINGS, {"gpusPerNode": 8}, "2Gi", id="of those that score"),
    pytest.param("train", SETTINGS, {"gpusPerNode": 0}, "1Gi", id="on the CPU"),
    pytest.param("train", SETTINGS, {"gpusPerNode": 8, "sharedMemory": "8Gi"}, "8Gi", id="what the spec gives"),
    pytest.param(
        "train", gpu_settings(sharedMemoryPerGpu="4Gi"), {"gpusPerNode": 8, "gpuType": "h200"}, "32Gi",
        id="what the administrator gives",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "settings", "resources", "size"), SHARED_MEMORY)
def test_shared_memory_grows_with_the_gpus(
    stage: str, settings: Settings, resources: Object, size: str
) -> None:
    pod = pod_of(stage, settings, resources=resources)
    volume = next(v for v in pod["volumes"] if v["name"] == "shm")
    assert volume["emptyDir"]["medium"] == "Memory"
    assert in_gib(volume["emptyDir"]["sizeLimit"]) == in_gib(size)


@pytest.mark.parametrize(
    ("quantity", "gib"),
    [("1Gi", 1.0), ("1.5Gi", 1.5), ("1073741824", 1.0), ("1e9", 10**9 / 2**30), ("2E", 2 * 10**18 / 2**30),
     ("512Mi", 0.5), ("1.Gi", 1.0), (".5Gi", 0.5), ("nonsense", None), (None, None)],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_does(quantity: str | None, gib: float | None) -> None:
    assert in_gib(quantity) == gib


@given(st.integers(1, 4096), st.sampled_from(["", "m", "Mi", "Gi"]), st.integers(1, 16))
def test_a_multiple_of_a_quantity_is_never_more_and_hardly_less(amount: int, unit: str, factor: int) -> None:
    one, many = in_gib(f"{amount}{unit}"), in_gib(times(f"{amount}{unit}", factor))
    assert one is not None
    assert many is not None
    assert one * factor - 1 / 2**20 <= many <= one * factor * (1 + 1e-9)
