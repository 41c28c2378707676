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

FAILURES = [
    pytest.param(
        {"dataset": {"source": "configmap://broken/train.jsonl"}},
        "UserError",
        ["row 2", "row 3"],
        id="malformed rows",
    ),
    pytest.param(
        {"baseModel": {"source": BASE, "fingerprint": "sha256:" + "0" * 64}},
        "UserError",
        ["fingerprint"],
        id="another base than the pinned one",
    ),
    pytest.param(
        {"baseModel": {"source": "hf://nobody/nothing", "revision": "0" * 40}},
        "Unknown",  # a Hub that does not answer may come back, so it was tried three times
        ["nobody/nothing"],
        id="an unreachable hub",
    ),
    pytest.param(
        {"resources": {"gpusPerNode": 0, "memory": "80Mi"}}, "OutOfMemory", ["memory"], id="too little memory"
    ),
]


@pytest.mark.parametrize(("changes", "reason", "words"), FAILURES)
def test_a_run_that_cannot_work_ends_with_the_reason_in_words(
    cluster: Cluster, changes: Object, reason: str, words: list[str], request: pytest.FixtureRequest
) -> None:
    cluster.apply(config_map("broken", **{"train.jsonl": BROKEN}))
    name = "bad-" + request.node.callspec.id.replace(" ", "-")[:30]
    cluster.apply(run(name, **changes))
    job = cluster.wait("FineTuneJob", name, ended, 300)
    succeeded = condition(job, "Succeeded")
    print(succeeded["message"])
    assert (succeeded["status"], succeeded["reason"]) == ("False", reason)
    assert [w for w in words if w.lower() not in succeeded["message"].lower()] == []


WAITING = [
    pytest.param(
        {"dataset": {"source": "configmap://absent/train.jsonl"}},
        "ConfigMap absent",
        id="a missing ConfigMap",
    ),
    pytest.param(
        {"dataset": {"source": "configmap://reviews/absent.jsonl"}}, "absent.jsonl", id="a missing key"
    ),
    pytest.param(
        {"baseModel": {"source": "pvc://absent/model"}}, "PersistentVolumeClaim absent", id="a missing claim"
    ),
    pytest.param(
        {
            "baseModel": {
                "source": "hf://nobody/nothing",
                "revision": "0" * 40,
                "credentialsSecretRef": {"name": "absent-secret"},
            }
        },
        "absent-secret",
        id="a missing Secret",
    ),
]


@pytest.mark.parametrize(("changes", "words"), WAITING)
def test_a_missing_object_is_named_and_awaited(
    cluster: Cluster, changes: Object, words: str, request: pytest.FixtureRequest
) -> None:
    name = "waits-" + request.node.callspec.id.replace(" ", "-").lower()[:30]
    cluster.apply(run(name, **changes))
    cluster.wait(
        "FineTuneJob", name, lambda j: words in json.dumps(j.get("status", {}).get("conditions", [])), 120
    )
    assert not ended(cluster.get("FineTuneJob", name))
    cluster.kubectl("delete", "ftj", name)


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
