"""A base model from the Hub: a stand-in of its HTTP interface, which the pods reach on the node's address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dev import assets, chart
from dev.cluster.home import home
from dev.cluster.machine.network import NODE_ADDRESS
from dev.cluster.up import Running
from dev.demo.objects import Cluster
from dev.images.build import references
from finetune_trainer.fingerprint import fingerprint
from tests.e2e.builders import condition, ended, run, server
from tests.hub_stand_in import COMMIT, TOKEN, HubStandIn

pytestmark = pytest.mark.e2e


@pytest.fixture
def hub(running: Running) -> Iterator[HubStandIn]:
    """The stand-in, named to the operator by the chart as a mirror of the Hub would be."""
    files = {path.name: path.read_bytes() for path in assets.base_model(home()).iterdir()}
    stand_in = HubStandIn(files, {}, host=NODE_ADDRESS)
    images = references()
    chart.install(running.kubeconfig, running.binaries, images, hubEndpoint=stand_in.address)
    yield stand_in
    chart.install(running.kubeconfig, running.binaries, images)
    stand_in.stop()


def test_a_private_pinned_base_is_fetched_with_its_token_for_training_and_for_serving(
    cluster: Cluster, hub: HubStandIn
) -> None:
    base = {
        "source": "hf://org/private",
        "revision": COMMIT,
        "credentialsSecretRef": {"name": "hub-token"},
    }
    metadata = {"name": "hub-token"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": TOKEN}}
    cluster.apply(secret, run("from-hub", baseModel=base), server("from-hub", baseModel=base))
    job = cluster.wait("FineTuneJob", "from-hub", lambda j: ended(j) or _validated(j), 240)
    assert _validated(job), condition(job, "Succeeded")
    assert job["status"]["resolved"]["baseRevision"] == COMMIT
    assert job["status"]["resolved"]["baseFingerprint"] == fingerprint(assets.base_model(home()))
    cluster.wait("ModelServer", "from-hub", lambda s: condition(s, "Ready").get("status") == "True", 600)
    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in cluster.kubectl("get", "ftj,msv,events,pods,configmaps", "-o", "yaml")
    cluster.kubectl("delete", "ftj,msv", "from-hub", "--timeout=120s")


def _validated(job: dict[str, object]) -> bool:
    return condition(job, "Validated").get("status") == "True"
