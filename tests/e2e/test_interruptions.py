"""Suspending, deleting, and killing the operator cost time and nothing else."""

from __future__ import annotations

import json

import pytest
from kubernetes import watch
from kubernetes.client import V1Pod

from dev.demo.objects import Cluster, workspace_folder
from tests.e2e.builders import LONG, Object, condition, ended, run, training_since

pytestmark = pytest.mark.e2e


def await_no_pods(cluster: Cluster, name: str, seconds: int = 180) -> None:
    """Return when no pod of a run is at work any more; a run may also have none to begin with."""
    selector = f"finetune.dev/owner={name}"
    pods = cluster.core.list_namespaced_pod(cluster.namespace, label_selector=selector)
    alive = {pod.metadata.name for pod in pods.items if at_work(pod)}
    stream = watch.Watch().stream(
        cluster.core.list_namespaced_pod,
        cluster.namespace,
        label_selector=selector,
        resource_version=pods.metadata.resource_version,
        timeout_seconds=seconds,
    )
    while alive:
        event = next(stream, None)
        if event is None:
            raise TimeoutError(f"pods of {name} are still running after {seconds} s: {alive}")
        running = event["type"] != "DELETED" and at_work(event["object"])
        (alive.add if running else alive.discard)(event["object"].metadata.name)


def at_work(pod: V1Pod) -> bool:
    return pod.status.phase not in ("Succeeded", "Failed")


def test_suspending_stops_the_pods_and_resuming_goes_on_from_the_checkpoint(
    cluster: Cluster, repetition: int
) -> None:
    name = f"pause-{repetition}"
    cluster.apply(run(name, training=LONG))
    cluster.wait("FineTuneJob", name, training_since(3), 900)
    cluster.kubectl("patch", "ftj", name, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    await_no_pods(cluster, name)
    cluster.kubectl("patch", "ftj", name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    job = cluster.wait("FineTuneJob", name, ended, 1200)
    assert condition(job, "Succeeded")["status"] == "True", condition(job, "Succeeded")
    folder = workspace_folder(cluster, name)
    summary = json.loads(next((folder / "results").glob("train-*.json")).read_text())["summary"]
    assert summary["resumedFromStep"] >= 3


def test_killing_the_operator_changes_nothing_but_the_time(cluster: Cluster, repetition: int) -> None:
    name = f"orphan-{repetition}"
    cluster.apply(run(name))
    for stage in ("Prepare", "Train", "Publish"):
        cluster.wait("FineTuneJob", name, lambda j, s=stage: in_stage(j, s) or ended(j), 600)  # type: ignore[misc]
        kill_operator(cluster)
    job = cluster.wait("FineTuneJob", name, ended, 900)
    assert condition(job, "Succeeded")["status"] == "True", condition(job, "Succeeded")
    assert [a["number"] for a in job["status"]["attempts"]] == [1, 1, 1]
    jobs = cluster.kubectl("get", "jobs", "-l", f"finetune.dev/owner={name}", "-o", "name").split()
    assert len(jobs) == 3


def in_stage(job: Object, stage: str) -> bool:
    return bool(job.get("status", {}).get("stage") == stage)


def kill_operator(cluster: Cluster) -> None:
    """No grace: the process is gone between two writes."""
    operator = "-nfinetune-system"
    cluster.kubectl(
        operator,
        "delete",
        "pod",
        "-l",
        "app.kubernetes.io/name=finetune-operator",
        "--grace-period=0",
        "--force",
    )


def test_deleting_a_run_cleans_up_its_children(cluster: Cluster) -> None:
    cluster.apply(run("gone"))
    cluster.wait("FineTuneJob", "gone", lambda j: bool(j.get("status", {}).get("attempts")), 120)
    cluster.kubectl("delete", "ftj", "gone", "--timeout=60s")
    await_no_pods(cluster, "gone")
    kinds = "jobs,configmaps,persistentvolumeclaims,services"
    cluster.kubectl(
        "wait", "--for=delete", kinds, "-l", "finetune.dev/owner=gone", "--timeout=120s", check=False
    )
    assert cluster.kubectl("get", kinds, "-l", "finetune.dev/owner=gone", "-o", "name") == ""
