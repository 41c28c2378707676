"""Bad input gets a clear error and loses nothing."""

from __future__ import annotations

import json

import pytest

from dev import chart
from dev.cluster.up import Running
from dev.demo.objects import Cluster
from dev.images.build import references
from tests.e2e.builders import BASE, Object, condition, config_map, ended, run, server

pytestmark = pytest.mark.e2e

BROKEN = "\n".join(
    [
        json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        "{not json",
        json.dumps({"messages": [{"role": "user", "content": "a"}]}),
    ]
)

HUB = {"source": "hf://nobody/nothing", "revision": "0" * 40}
FAILING: dict[str, tuple[Object, str, list[str]]] = {
    "malformed-rows": (
        {"dataset": {"source": "configmap://broken/train.jsonl"}},
        "UserError",
        ["row 2", "row 3"],
    ),
    "another-base-than-the-pinned": (
        {"baseModel": {"source": BASE, "fingerprint": "sha256:" + "0" * 64}},
        "UserError",
        ["fingerprint"],
    ),
    # A Hub that does not answer may come back, so it was tried three times.
    "unreachable-hub": ({"baseModel": HUB}, "Unknown", ["nobody/nothing"]),
    "too-little-memory": ({"resources": {"gpusPerNode": 0, "memory": "80Mi"}}, "OutOfMemory", ["memory"]),
}
AWAITING: dict[str, tuple[Object, str]] = {
    "missing-configmap": ({"dataset": {"source": "configmap://absent/train.jsonl"}}, "ConfigMap absent"),
    "missing-key": ({"dataset": {"source": "configmap://reviews/absent.jsonl"}}, "absent.jsonl"),
    "missing-claim": ({"baseModel": {"source": "pvc://absent/model"}}, "PersistentVolumeClaim absent"),
    "missing-secret": (
        {"baseModel": {**HUB, "credentialsSecretRef": {"name": "absent-secret"}}},
        "absent-secret",
    ),
}


@pytest.fixture(scope="module")
def submitted(cluster: Cluster) -> None:
    """All runs that cannot work, at once: three of them take minutes of waiting and no work."""
    cluster.apply(config_map("broken", **{"train.jsonl": BROKEN}))
    for name, (changes, *_) in {**FAILING, **AWAITING}.items():
        cluster.apply(run(name, **changes))


@pytest.mark.parametrize("name", AWAITING)
def test_a_missing_object_is_named_and_awaited(cluster: Cluster, submitted: None, name: str) -> None:
    _, words = AWAITING[name]
    cluster.wait(
        "FineTuneJob", name, lambda j: words in json.dumps(j.get("status", {}).get("conditions", [])), 120
    )
    assert not ended(cluster.get("FineTuneJob", name))
    cluster.kubectl("delete", "ftj", name)


@pytest.mark.parametrize("name", FAILING)
def test_a_run_that_cannot_work_ends_with_the_reason_in_words(
    cluster: Cluster, submitted: None, name: str
) -> None:
    _, reason, words = FAILING[name]
    job = cluster.wait("FineTuneJob", name, ended, 300)
    succeeded = condition(job, "Succeeded")
    print(succeeded["message"])
    assert (succeeded["status"], succeeded["reason"]) == ("False", reason)
    assert [w for w in words if w.lower() not in succeeded["message"].lower()] == []


SERVERS = [
    pytest.param(
        {"apiKeys": {"secretRef": {"name": "absent-keys"}}},
        ("SecretOrVolumeMissing", "Secret absent-keys"),
        id="keys that do not exist",
    ),
    pytest.param(
        {"artifactStore": "pvc://absent"}, ("ClaimNotFound", "absent"), id="a store without a claim"
    ),
    pytest.param(
        {"resources": {"gpus": 1, "gpuType": "h900"}},
        ("UnknownGpuType", "h900"),
        id="a GPU nobody configured",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), SERVERS)
def test_a_server_that_cannot_start_says_why(
    cluster: Cluster, changes: Object, expected: tuple[str, str]
) -> None:
    reason, words = expected
    cluster.apply(server("cannot-start", **changes))
    found = cluster.wait(
        "ModelServer", "cannot-start", lambda s: condition(s, "Ready").get("reason") == reason, 90
    )
    assert words in condition(found, "Ready")["message"]
    assert condition(found, "Stalled")["status"] == "True"
    cluster.kubectl("delete", "msv", "cannot-start", "--timeout=60s")


def test_an_image_that_cannot_be_pulled_is_named(cluster: Cluster, running: Running) -> None:
    images = references()
    absent = images["trainer"] + "-absent"
    chart.install(running.kubeconfig, running.binaries, {**images, "trainer": absent})
    try:
        cluster.apply(run("no-image"))
        job = cluster.wait(
            "FineTuneJob", "no-image", lambda j: condition(j, "Admitted").get("reason") == "ImagePull", 120
        )
        assert absent in condition(job, "Admitted")["message"]
        assert "ImagePull" in cluster.kubectl(
            "get", "events", "--field-selector=involvedObject.name=no-image"
        )
        assert not ended(job)
        cluster.kubectl("delete", "ftj", "no-image")
    finally:
        chart.install(running.kubeconfig, running.binaries, images)


def test_an_object_that_the_schema_refuses_never_reaches_the_operator(cluster: Cluster) -> None:
    wrong = run("refused", training={"epochs": 99})
    with pytest.raises(RuntimeError, match="epochs"):
        cluster.apply(wrong)
    assert "refused" not in cluster.kubectl("get", "ftj", "-o", "name")
