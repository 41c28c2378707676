"""The embedded cluster and one namespace for the whole session."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from kubernetes import client

from dev import assets
from dev.cluster import up
from dev.cluster.home import home
from dev.demo.objects import Cluster
from dev.demo.run import fill_claim
from tests.e2e.builders import (
    KEY,
    Object,
    adapter_deployment,
    condition,
    config_map,
    ended,
    evaluation,
    ready,
    run,
    server,
    small_data,
    volume_claim,
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`make test-long` repeats the tests that race with something."""
    if metafunc.definition.get_closest_marker("e2e") and "repetition" in metafunc.fixturenames:
        metafunc.parametrize("repetition", range(int(os.environ.get("FINETUNE_TEST_REPEAT", "1"))))


@pytest.fixture(scope="session")
def running() -> up.Running:
    """The embedded cluster, started if it does not run."""
    return up.up(home())


@pytest.fixture(scope="session")
def cluster(running: up.Running) -> Iterator[Cluster]:
    """A fresh namespace that enforces Pod Security `restricted`, with the base model and the data in it."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    found = Cluster(running.kubeconfig, running.binaries / "kubectl", name)
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    found.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name, labels=enforce)))
    for claim, size in (("models", "2Gi"), ("adapters", "2Gi")):
        found.apply(volume_claim(claim, size))
    fill_claim(found.volume_folder("models") / "smollm2-135m-instruct", assets.base_model(home()))
    found.apply(config_map("reviews", **small_data()))
    yield found
    if not os.environ.get("FINETUNE_TEST_KEEP"):
        found.core.delete_namespace(name)


@pytest.fixture
def folder(cluster: Cluster) -> Path:
    """The folder of this machine behind the claim `adapters`."""
    return cluster.volume_folder("adapters")


@pytest.fixture(scope="session")
def trained(cluster: Cluster) -> Object:
    """A run through all five stages on the small data."""
    cluster.apply(run("reviews-v1", evaluation=evaluation()))
    return cluster.wait("FineTuneJob", "reviews-v1", ended, 1800)


@pytest.fixture(scope="session")
def serving(cluster: Cluster) -> Iterator[openai.OpenAI]:
    """A server with one key, and the official client for it."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"e2e": KEY}}
    cluster.apply(secret, server("shared", apiKeys={"secretRef": {"name": "keys"}}))
    cluster.wait("ModelServer", "shared", lambda s: condition(s, "Ready").get("status") == "True", 900)
    service = cluster.core.read_namespaced_service("shared-server", cluster.namespace)
    return openai.OpenAI(base_url=f"http://{service.spec.cluster_ip}:8000/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="session")
def served(cluster: Cluster, trained: Object, serving: openai.OpenAI) -> Object:
    """The run's adapter behind the alias `reviews`."""
    cluster.apply(adapter_deployment("reviews", "shared", {"fineTuneJobRef": {"name": "reviews-v1"}}))
    return cluster.wait("AdapterDeployment", "reviews", ready, 300)
