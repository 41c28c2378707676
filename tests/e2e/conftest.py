"""The embedded cluster and one namespace for the whole session."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client

from dev import assets
from dev.cluster import up
from dev.cluster.home import home
from dev.demo.objects import Cluster
from dev.demo.run import fill_claim
from tests.e2e.builders import config_map, small_data, volume_claim


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
