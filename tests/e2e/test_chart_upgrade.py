"""Upgrade and rollback by Helm while a run trains and an adapter answers: neither notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from dev import chart
from dev.cluster import up
from dev.demo.objects import Cluster
from tests.e2e.builders import LONG, Object, asking, condition, ended, run, training_since

pytestmark = pytest.mark.e2e
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
# No node can pull it: whoever takes the new image instead of the one it began with fails.
NOWHERE = "registry.invalid/none:1"


@contextmanager
def upgraded(running: up.Running) -> Iterator[None]:
    """The release with other images for new runs and servers, and other settings; rolled back afterwards."""
    revision, images = chart.deployed(running.kubeconfig, running.binaries)
    other = {**images, "trainer": NOWHERE, "serving": NOWHERE}
    try:
        chart.install(running.kubeconfig, running.binaries, other, progressSeconds=3)
        yield
    finally:
        chart.rollback(running.kubeconfig, running.binaries, revision)


def serving_pods(cluster: Cluster) -> set[str]:
    pods = cluster.core.list_namespaced_pod(cluster.namespace, label_selector="finetune.dev/owner=shared")
    return {pod.metadata.uid for pod in pods.items}


def operator_pods(cluster: Cluster) -> set[str]:
    selector = f"app.kubernetes.io/instance={chart.RELEASE}"
    return {
        p.metadata.uid
        for p in cluster.core.list_namespaced_pod(chart.NAMESPACE, label_selector=selector).items
    }


def test_an_upgrade_and_its_rollback_disturb_neither_a_run_nor_a_server(
    running: up.Running, cluster: Cluster, served: Object, serving: openai.OpenAI
) -> None:
    cluster.apply(run("upgraded", training=LONG))
    cluster.wait("FineTuneJob", "upgraded", training_since(1), 900)
    servers, operators = serving_pods(cluster), operator_pods(cluster)

    def ask(_: int) -> str:
        return serving.chat.completions.create(model="reviews", messages=QUESTION, max_tokens=4).model

    # Two requests a second leave the processor to the training.
    with asking(ask, callers=1, pause_seconds=0.5) as asked, upgraded(running):
        assert operator_pods(cluster) - operators
        cluster.wait("ModelServer", "shared", update_available, 120)
        job = cluster.wait("FineTuneJob", "upgraded", ended, 900)
    assert condition(job, "Succeeded")["status"] == "True", condition(job, "Succeeded")
    assert [(a["stage"], a["number"]) for a in job["status"]["attempts"]] == [
        ("prepare", 1),
        ("train", 1),
        ("publish", 1),
    ]
    assert serving_pods(cluster) == servers
    assert asked.failures == []
    assert len(asked.answers) > 10
    cluster.wait("ModelServer", "shared", lambda found: not update_available(found), 120)


def update_available(server: Object) -> bool:
    return condition(server, "UpdateAvailable").get("status") == "True"
