"""What a run needs and costs is known, and refused where it must be, before a GPU is asked for.

The node has no GPU: it says that it has one, so that pods which ask for a GPU run and are paid for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from kubernetes import client, watch

from dev import chart
from dev.cluster.machine.network import NODE_ADDRESS
from dev.cluster.up import Running
from dev.demo.objects import Cluster, workspace_folder
from dev.images.build import references
from tests.e2e.builders import Object, condition, ended, run, small_data
from tests.s3_server import ACCESS_KEY, REGION, SECRET_KEY, serving

pytestmark = pytest.mark.e2e
GPU_TYPES = {
    "h200": {"memoryGiB": 139, "peakTflops": 989, "pricePerHour": "4.00", "currency": "USD"},
    "small": {"memoryGiB": 0.5},
    "metered": {"pricePerHour": "600", "currency": "USD"},
}
SAVINGS = {"callsPerMonth": 1_000_000, "removedPromptTokens": 3000, "pricePerMillionTokens": "1.0"}


@pytest.fixture(scope="module")
def priced(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The administrator's GPU types and S3 service; the service holds the small data."""
    root = tmp_path_factory.mktemp("s3")
    (root / "rows").mkdir()
    (root / "rows" / "train.jsonl").write_text(small_data()["train.jsonl"])
    images = references()
    with serving(root, NODE_ADDRESS) as address:
        s3 = {"endpoint": address, "region": REGION}
        chart.install(running.kubeconfig, running.binaries, images, gpuTypes=GPU_TYPES, s3=s3)
        yield
    chart.install(running.kubeconfig, running.binaries, images)


@pytest.fixture
def gpu(cluster: Cluster) -> Iterator[None]:
    """An extended resource that the node says to have, as the API server documents it."""
    node = cluster.core.list_node().items[0].metadata.name
    cluster.core.patch_node_status(node, {"status": {"capacity": {"nvidia.com/gpu": "1"}}})
    yield
    cluster.core.patch_node_status(node, {"status": {"capacity": {"nvidia.com/gpu": None}}})


def on(gpu_type: str) -> Object:
    return {"gpusPerNode": 1, "gpuType": gpu_type, "memory": "6Gi"}


def usd(limit: str) -> Object:
    return {"limit": limit, "currency": "USD"}


def waits_for_its_budget(job: Object) -> bool:
    return bool(condition(job, "Admitted").get("reason") == "BudgetExceeded")


def raise_limit(cluster: Cluster, name: str, limit: str) -> None:
    patch = json.dumps({"spec": {"budget": {"limit": limit}}})
    cluster.kubectl("patch", "ftj", name, "--type=merge", "-p", patch)


def stages_with_jobs(cluster: Cluster, name: str) -> list[str]:
    found = cluster.kubectl("get", "jobs", "-l", f"finetune.dev/owner={name}", "-o", "json")
    return sorted(job["metadata"]["labels"]["finetune.dev/stage"] for job in json.loads(found)["items"])


def await_stage_job(cluster: Cluster, name: str, stage: str) -> None:
    """The status names a stage before its Job is made, so the Job itself is awaited."""
    found = watch.Watch().stream(
        client.BatchV1Api(cluster.api).list_namespaced_job,
        cluster.namespace,
        label_selector=f"finetune.dev/owner={name},finetune.dev/stage={stage}",
        timeout_seconds=60,
    )
    assert next(found, None) is not None, f"{name} has no Job of stage {stage} after 60 s"


def test_a_run_is_checked_planned_and_priced_and_no_gpu_is_asked_for_above_its_budget(
    cluster: Cluster, priced: None
) -> None:
    keys = {"accessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-reader"}, "stringData": keys}
    dataset = {
        "source": "s3://rows/train.jsonl",
        "credentialsSecretRef": {"name": "s3-reader"},
        "rules": {"too_few": "Ignore"},
    }
    changes = {"goal": "Knowledge", "savings": SAVINGS, "budget": usd("0.01")}
    cluster.apply(secret, run("priced", dataset=dataset, resources=on("h200"), **changes))
    job = cluster.wait("FineTuneJob", "priced", lambda j: waits_for_its_budget(j) or ended(j), 180)
    assert waits_for_its_budget(job), job["status"]["conditions"]
    status = job["status"]
    assert status["plan"]["fits"] is True
    assert float(status["plan"]["peakGiB"]) <= float(status["plan"]["limitGiB"])
    cost = status["cost"]
    assert 0.01 < float(cost["low"]) <= float(cost["estimate"]) <= float(cost["high"])
    assert (cost["currency"], float(cost["perMonthSaved"])) == ("USD", 3000)
    assert status["resolved"]["rules"] == {"too_few": "Ignore"}
    assert condition(job, "Advised")["reason"] == "KnowledgeGap"
    assert stages_with_jobs(cluster, "priced") == ["prepare"]
    assert SECRET_KEY not in cluster.kubectl("get", "ftj,events,pods,configmaps", "-o", "yaml")
    raise_limit(cluster, "priced", "50")
    await_stage_job(cluster, "priced", "train")
    cluster.kubectl("delete", "ftj", "priced", "--timeout=60s")


def test_what_cannot_fit_is_refused_with_the_numbers(cluster: Cluster, priced: None) -> None:
    cluster.apply(run("too-large", method="Full", lora=None, resources=on("small")))
    job = cluster.wait("FineTuneJob", "too-large", ended, 180)
    succeeded = condition(job, "Succeeded")
    assert (succeeded["status"], succeeded["reason"]) == ("False", "UserError")
    assert "GiB on one GPU of 0.5 GiB" in succeeded["message"]
    assert stages_with_jobs(cluster, "too-large") == ["prepare"]


def test_a_run_that_has_cost_its_budget_stops_after_a_checkpoint_and_goes_on_when_it_is_raised(
    cluster: Cluster, priced: None, gpu: None
) -> None:
    # 48 steps: about two minutes, and the cost is looked at in whole ones.
    long = {"epochs": 8, "learningRate": "1e-3", "effectiveBatchSize": 8, "maxLength": 512, "seed": 17}
    cluster.apply(run("metered", training=long, resources=on("metered"), budget=usd("5")))
    job = cluster.wait("FineTuneJob", "metered", lambda j: waits_for_its_budget(j) or ended(j), 400)
    assert waits_for_its_budget(job), job["status"]["conditions"]
    assert float(job["status"]["cost"]["spent"]) >= 5
    raise_limit(cluster, "metered", "10000")
    job = cluster.wait("FineTuneJob", "metered", ended, 600)
    assert condition(job, "Succeeded")["status"] == "True", condition(job, "Succeeded")
    assert float(job["status"]["cost"]["spent"]) > 10
    results = workspace_folder(cluster, "metered") / "results"
    assert json.loads(next(results.glob("train-*.json")).read_text())["summary"]["resumedFromStep"] > 0
