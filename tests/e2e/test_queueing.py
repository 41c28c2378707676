"""Real Kueue: quota for one run, a second that waits, a third that preempts, and the first going on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from dev import chart, kueue
from dev.cluster.home import home
from dev.cluster.up import Running
from dev.demo.objects import Cluster, workspace_folder
from dev.images.build import references
from tests.e2e.builders import Object, condition, ended, run

pytestmark = pytest.mark.e2e
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
URGENT = "e2e-urgent"
RESOURCES = {"gpusPerNode": 0, "memory": "4Gi"}
TRAINING = {"learningRate": "1e-3", "effectiveBatchSize": 8, "maxLength": 256, "seed": 17}


@pytest.fixture
def queue(cluster: Cluster, running: Running) -> Iterator[str]:
    """Kueue with a LocalQueue in the namespace whose quota is one run, and a PriorityClass that users may name."""
    helm, images = running.binaries / "helm", references()
    made = [priority_class(), *queues(cluster.namespace)]
    try:
        kueue.install(home(), running.kubeconfig, helm)
        chart.install(running.kubeconfig, running.binaries, images, allowedPriorityClasses=[URGENT])
        cluster.apply(*made)
        yield "team"
        cluster.kubectl("delete", "ftj", "--all", "--timeout=120s")
        for manifest in reversed(made):
            cluster.kubectl("delete", manifest["kind"], manifest["metadata"]["name"], "--timeout=60s")
    finally:  # its webhooks would refuse the Jobs of every later test
        kueue.uninstall(running.kubeconfig, helm)
        chart.install(running.kubeconfig, running.binaries, images)


def priority_class() -> Object:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": URGENT},
        "value": 1000,
        "preemptionPolicy": "Never",  # the scheduler's; Kueue preempts by its queue's policy
    }


def queues(namespace: str) -> list[Object]:
    """The memory of one run for two LocalQueues; `held` admits nothing until its stopPolicy is None."""
    amounts = {"cpu": "64", "ephemeral-storage": "1Ti", "memory": RESOURCES["memory"]}
    quota = [{"name": name, "nominalQuota": amount} for name, amount in amounts.items()]
    groups = [{"coveredResources": list(amounts), "flavors": [{"name": "e2e", "resources": quota}]}]
    cluster_queue = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": groups,
    }
    return [
        kueue_object("ResourceFlavor", "e2e", {}),
        kueue_object("ClusterQueue", "e2e", cluster_queue),
        kueue_object("LocalQueue", "team", {"clusterQueue": "e2e"}),
        kueue_object("LocalQueue", "held", {"clusterQueue": "e2e", "stopPolicy": "Hold"}),
    ]


def kueue_object(kind: str, name: str, spec: Object) -> Object:
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def waits(reason: str, words: str) -> Callable[[Object], bool]:
    """The run says why a stage is not admitted; what ended is let through for the assertion after it."""

    def reached(job: Object) -> bool:
        found = condition(job, "Admitted")
        told = (found.get("status"), found.get("reason")) == ("False", reason) and words in found["message"]
        return told or ended(job)

    return reached


def training(step: int) -> Callable[[Object], bool]:
    """The train stage has its pods and has done this many steps."""

    def reached(job: Object) -> bool:
        status = job.get("status", {})
        done = int(status.get("progress", {}).get("step") or 0)
        scheduled = condition(job, "Admitted").get("reason") == "Scheduled"
        return (status.get("stage") == "Train" and scheduled and done >= step) or ended(job)

    return reached


def queued(cluster: Cluster, name: str) -> dict[str, bool]:
    """For each stage that has a Job, whether it has a queue."""
    listed = json.loads(cluster.kubectl("get", "jobs", "-l", f"finetune.dev/owner={name}", "-o", "json"))
    labels = [job["metadata"]["labels"] for job in listed["items"]]
    return {found["finetune.dev/stage"]: QUEUE_LABEL in found for found in labels}


def change(cluster: Cluster, kind: str, name: str, **spec: object) -> None:
    cluster.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))


def test_runs_of_a_queue_wait_for_quota_preempt_and_go_on_from_their_checkpoints(
    cluster: Cluster, queue: str
) -> None:
    def run_of(name: str, epochs: int, **scheduling: str) -> Object:
        training = {**TRAINING, "epochs": epochs}
        return run(name, resources=RESOURCES, training=training, scheduling=scheduling)

    short = "insufficient unused quota for memory in flavor e2e"
    cluster.apply(run_of("first", 3, queueName=queue))
    cluster.apply(run_of("urgent", 1, queueName="held", priorityClassName=URGENT))
    cluster.wait("FineTuneJob", "first", training(0), 240)

    cluster.apply(run_of("second", 1, queueName=queue))
    cluster.wait("FineTuneJob", "second", waits("Pending", short), 240)
    assert queued(cluster, "second") == {"prepare": False, "train": True}
    change(cluster, "ftj", "second", suspend=True)
    cluster.wait("FineTuneJob", "second", waits("Suspended", "spec.suspend"), 60)
    change(cluster, "ftj", "second", suspend=False)
    cluster.wait("FineTuneJob", "second", waits("Pending", short), 60)
    cluster.kubectl("delete", "ftj", "second", "--timeout=60s")

    cluster.wait("FineTuneJob", "urgent", waits("Inadmissible", "LocalQueue held is inactive"), 240)
    cluster.wait("FineTuneJob", "first", training(1), 240)
    change(cluster, "localqueue", "held", stopPolicy="None")
    preempted = cluster.wait("FineTuneJob", "first", waits("Preempted", "due to prioritization"), 120)
    assert not ended(preempted), condition(preempted, "Succeeded")
    for name in ("urgent", "first"):
        job = cluster.wait("FineTuneJob", name, ended, 400)
        assert condition(job, "Succeeded")["status"] == "True", condition(job, "Succeeded")
        attempts = [(attempt["stage"], attempt["number"]) for attempt in job["status"]["attempts"]]
        assert attempts == [("prepare", 1), ("train", 1), ("publish", 1)]
    results = workspace_folder(cluster, "first") / "results"
    summary = json.loads(next(results.glob("train-*.json")).read_text())["summary"]
    assert summary["resumedFromStep"] >= 1
    assert queued(cluster, "first") == {"prepare": False, "train": True, "publish": False}
