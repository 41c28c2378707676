"""Two replicas on real engines lose no request, whatever happens to versions and pods."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    condition,
    copy_version,
    ready,
    server,
)

pytestmark = [pytest.mark.e2e, pytest.mark.long]
TIMES = 10
CALLERS = 6
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass
class Asked:
    """What became of the requests."""

    answers: int = 0
    failures: list[str] = field(default_factory=list)


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


@contextmanager
def asking(to: openai.OpenAI) -> Iterator[Asked]:
    """Whole answers and streams, several callers with kept connections, while the block runs."""
    asked, stop = Asked(), threading.Event()

    def once(streams: bool) -> None:
        options: Any = {"model": "pair", "messages": QUESTION, "max_tokens": 8, "stream": streams}
        answer: Any = to.chat.completions.create(**options)
        if streams:
            assert any(chunk.choices and chunk.choices[0].finish_reason for chunk in answer)

    def ask(streams: bool) -> None:
        while not stop.is_set():
            try:
                once(streams)
                asked.answers += 1
            except Exception as error:
                asked.failures.append(repr(error))

    workers = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(CALLERS)]
    for worker in workers:
        worker.start()
    try:
        yield asked
    finally:
        stop.set()
        for worker in workers:
            worker.join(timeout=60)


def test_rolls_and_rolls_back_fail_no_request(cluster: Cluster, pair: openai.OpenAI, folder: Path) -> None:
    first = cluster.get("AdapterDeployment", "pair")["status"]["resolved"]
    old = {"source": first["source"], "digest": first["digest"]}
    new = copy_version(folder, "reviews-v1", "pair-v2")
    seconds = []
    with asking(pair) as asked:
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
    print(f"{asked.answers} answers, {len(asked.failures)} failed; seconds of each roll: {seconds}")
    assert asked.failures == []


def test_deleted_pods_fail_no_request(cluster: Cluster, pair: openai.OpenAI) -> None:
    with asking(pair) as asked:
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
    print(f"{asked.answers} answers, {len(asked.failures)} failed")
    assert asked.failures == []
