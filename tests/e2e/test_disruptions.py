"""Two replicas on real engines lose no request, whatever happens to versions and pods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from kubernetes import client

from dev.demo.objects import Cluster
from tests.e2e.builders import (
    KEY,
    Object,
    adapter_deployment,
    asking,
    condition,
    copy_version,
    ready,
    server,
)

pytestmark = [pytest.mark.e2e, pytest.mark.long]
TIMES = 10
CALLERS = 6
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def pair(cluster: Cluster, trained: Object) -> Iterator[openai.OpenAI]:
    """A server of two replicas that serves the alias `pair`; clients do not retry."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pair-keys"},
        "stringData": {"e2e": KEY},
    }
    small = {"gpus": 0, "memory": "5Gi"}
    keys = {"secretRef": {"name": "pair-keys"}}
    cluster.apply(secret, server("pair", replicas=2, resources=small, apiKeys=keys))
    cluster.apply(adapter_deployment("pair", "pair", {"fineTuneJobRef": {"name": "reviews-v1"}}))
    cluster.wait("AdapterDeployment", "pair", ready, 900)
    cluster.wait("ModelServer", "pair", both_answer, 900)
    service = cluster.core.read_namespaced_service("pair-server", cluster.namespace)
    yield openai.OpenAI(base_url=f"http://{service.spec.cluster_ip}:8000/v1", api_key=KEY, max_retries=0)
    cluster.kubectl("delete", "adep/pair", "msv/pair", "--timeout=120s")


def both_answer(found: Object) -> bool:
    status = found.get("status", {})
    current = status.get("observedGeneration") == found["metadata"]["generation"]
    return current and condition(found, "Ready").get("status") == "True" and status.get("readyReplicas") == 2


def asks_both_ways(to: openai.OpenAI) -> Callable[[int], str]:
    """Whole answers from one half of the callers, streams from the other, on kept connections."""

    def ask(number: int) -> str:
        streams = number % 2 == 0
        options: Any = {"model": "pair", "messages": QUESTION, "max_tokens": 8, "stream": streams}
        answer: Any = to.chat.completions.create(**options)
        if not streams:
            return str(answer.model)
        chunks = list(answer)
        assert any(chunk.choices and chunk.choices[0].finish_reason for chunk in chunks)
        return str(chunks[0].model)

    return ask


def test_rolls_and_rolls_back_fail_no_request(cluster: Cluster, pair: openai.OpenAI, folder: Path) -> None:
    first = cluster.get("AdapterDeployment", "pair")["status"]["resolved"]
    old = {"source": first["source"], "digest": first["digest"]}
    new = copy_version(folder, "reviews-v1", "pair-v2")
    seconds = []
    with asking(asks_both_ways(pair), CALLERS) as asked:
        for adapter in (new, old) * TIMES:
            start = time.monotonic()
            cluster.apply(adapter_deployment("pair", "pair", adapter, allowUnpromoted=True))
            wanted = "pair--" + adapter["digest"].removeprefix("sha256:")[:12]
            cluster.wait(
                "AdapterDeployment",
                "pair",
                lambda d, w=wanted: ready(d) and d["status"]["serving"]["version"] == w,  # type: ignore[misc]
                300,
            )
            seconds.append(round(time.monotonic() - start, 1))
    print(f"{len(asked.answers)} answers, {len(asked.failures)} failed; seconds of each roll: {seconds}")
    assert asked.failures == []


def test_deleted_pods_fail_no_request(cluster: Cluster, pair: openai.OpenAI) -> None:
    with asking(asks_both_ways(pair), CALLERS) as asked:
        for number in range(TIMES):
            pods = cluster.core.list_namespaced_pod(
                cluster.namespace, label_selector="finetune.dev/owner=pair"
            ).items
            oldest = min(pods, key=lambda pod: pod.metadata.creation_timestamp)
            if number % 2:
                cluster.kubectl("delete", "pod", oldest.metadata.name, "--wait=false")
            else:  # as a drain does, which the PodDisruptionBudget has to allow
                meta = client.V1ObjectMeta(name=oldest.metadata.name, namespace=cluster.namespace)
                cluster.core.create_namespaced_pod_eviction(
                    oldest.metadata.name, cluster.namespace, client.V1Eviction(metadata=meta)
                )
            cluster.kubectl("wait", "--for=delete", f"pod/{oldest.metadata.name}", "--timeout=300s")
            cluster.wait("ModelServer", "pair", both_answer, 600)
    print(f"{len(asked.answers)} answers, {len(asked.failures)} failed")
    assert asked.failures == []
