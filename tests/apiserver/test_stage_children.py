"""What the plan of a FineTuneJob asks for, shown to a real API server that enforces Pod Security restricted."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.apiserver.client import GROUP, Object
from tests.unit.stages.kubernetes_simulation import KubernetesSimulation, result_of
from tests.unit.stages.rendered import with_settings

pytestmark = pytest.mark.apiserver
NAMESPACE = "stages"
DRY = {"dryRun": "All", "fieldValidation": "Strict"}
PATHS = {
    "Job": "/apis/batch/v1/namespaces/stages/jobs",
    "ConfigMap": "/api/v1/namespaces/stages/configmaps",
    "Service": "/api/v1/namespaces/stages/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/stages/networkpolicies",
    "PersistentVolumeClaim": "/api/v1/namespaces/stages/persistentvolumeclaims",
    "Pod": "/api/v1/namespaces/stages/pods",
}
HUB = {
    "baseModel": {"source": "hf://org/model", "revision": "0" * 40, "credentialsSecretRef": {"name": "hub"}},
    "lora": {"rank": 16, "alpha": 32},
    "workspace": {"size": "5Gi", "storageClassName": "fast"},
}
GANG = {
    "resources": {"nodes": 2, "gpusPerNode": 8, "gpuType": "h200", "sharedMemory": "8Gi"},
    "nodeSelector": {"zone": "a"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
}
# Of the administrator everything but IPC_LOCK, which only a privileged namespace admits.
NETWORK = {
    "nodeSelector": {"gpu": "h200", "topology.kubernetes.io/zone": "a"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "labels": {"network": "fast"},
    "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma"},
    "env": {"NCCL_IB_HCA": "mlx5"},
    "schedulerName": "volcano",
    "cpuPerGpu": "11500m",
    "memoryPerGpu": "200Gi",
    "extraResources": {"rdma/hca": "1"},
    "topologyKey": "topology.example.com/rack",
}
SHARED = {
    "workspace": {"claimName": "scratch"},
    "podTemplate": {
        "labels": {"team": "reviews"},
        "annotations": {"sidecar.istio.io/inject": "false"},
        "imagePullSecrets": [{"name": "registry"}],
    },
}
IMAGE = {"type": "Container", "image": "registry.example/polite@sha256:" + "a" * 64}
FOREIGN = {
    "evaluation": {
        "graders": [
            {"name": "n" * 40, **IMAGE},
            {"name": "tests", "type": "CodeAssert", "tests": "assert f()"},
        ],
        "primary": "tests",
        "regression": {
            "suites": [
                {
                    "name": "s" * 40,
                    "dataset": {"source": "configmap://reviews/holdout.jsonl"},
                    "grader": {"name": "polite", **IMAGE, "command": ["sh", "-c", "echo $1"]},
                }
            ]
        },
    }
}
RUNS = [
    pytest.param({}, id="a small run"),
    pytest.param(HUB, id="a base from a hub"),
    pytest.param(GANG, id="a gang on GPUs"),
    pytest.param({"method": "Full"}, id="a full fine-tune"),
    pytest.param(FOREIGN, id="programs and images that grade"),
    pytest.param({**GANG, **SHARED}, id="a gang on a shared workspace"),
    pytest.param({"resources": {"gpusPerNode": 2, "cpu": None, "memory": None}}, id="nobody says how large"),
]


@pytest.fixture(scope="module")
def server(http: httpx.Client) -> httpx.Client:
    """The server with a namespace as users should have it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    assert http.post("/api/v1/namespaces", json=namespace).status_code == 201
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    made = http.post(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", json=account)
    assert made.status_code in (201, 409), made.text
    return http


def played(changes: Object) -> tuple[list[Object], list[Object]]:
    """The children of a whole run and its statuses after every stage."""
    settings = with_settings(gpuTypes={"h200": NETWORK})
    world = KubernetesSimulation(settings, **changes)
    world.claims["scratch"] = {"metadata": {"uid": "s"}, "spec": {"accessModes": ["ReadWriteMany"]}}
    world.object["metadata"]["namespace"] = NAMESPACE
    statuses = []
    for stage in ("prepare", "baseline", "train", "evaluate", "publish"):
        world.to(stage)
        world.progress = {"stage": stage, "fraction": 0.5, "step": 1, "loss": 1.5, "etaSeconds": 90}
        statuses.append(world.settle().status)
    statuses.append(world.end().status)
    claims = [claim for claim in world.claims.values() if "kind" in claim]
    return [*claims, *world.jobs.values(), *world.others.values()], statuses


def clean(child: Object) -> Object:
    """The manifest as the plan made it, without what the simulation added."""
    metadata = {key: value for key, value in child["metadata"].items() if key != "uid"}
    return {**{key: value for key, value in child.items() if key != "status"}, "metadata": metadata}


def refused(server: httpx.Client, kind: str, body: Object) -> str:
    response = server.post(PATHS[kind], params=DRY, json=body)
    warning = response.headers.get("Warning", "")
    return "" if response.status_code == 201 and not warning else f"{kind}: {warning} {response.text}"


@pytest.mark.parametrize("changes", RUNS)
def test_every_child_is_accepted_without_a_warning(server: httpx.Client, changes: Object) -> None:
    children, _ = played(changes)
    problems = [refused(server, child["kind"], clean(child)) for child in children]
    assert [problem for problem in problems if problem] == []
    assert len(children) >= 10


@pytest.mark.parametrize("changes", RUNS)
def test_every_pod_is_admitted_by_pod_security_restricted(server: httpx.Client, changes: Object) -> None:
    children, _ = played(changes)
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p"},
            "spec": job["spec"]["template"]["spec"],
        }
        for job in children
        if job["kind"] == "Job"
    ]
    problems = [refused(server, "Pod", pod) for pod in pods]
    assert [problem for problem in problems if problem] == []


def failed() -> Object:
    """The status of a run that ended badly."""
    world = KubernetesSimulation().to("train")
    return world.end(result_of("train", "Failed", "OutOfMemory")).status


def test_every_status_is_accepted_by_the_schema(server: httpx.Client) -> None:
    _, statuses = played({})
    path = f"{GROUP}/namespaces/{NAMESPACE}/finetunejobs"
    body: dict[str, Any] = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}
    body["metadata"] = {"name": "run"}
    body["spec"] = KubernetesSimulation().object["spec"]
    created = server.post(path, params={"fieldValidation": "Strict"}, json=body)
    assert created.status_code == 201, created.text
    for status in (*statuses, failed()):
        answer = server.put(f"{path}/run/status", params=DRY, json={**created.json(), "status": status})
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == status, "the schema drops nothing"
