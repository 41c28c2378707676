"""From a FineTuneJob to an answer behind the server, and every way in which a version may be refused."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest

from dev.demo.objects import Cluster
from tests.e2e.builders import (
    KEY,
    Object,
    adapter_deployment,
    asking,
    condition,
    copy_version,
    ended,
    evaluation,
    ready,
    run,
)

pytestmark = pytest.mark.e2e
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_run_goes_through_all_stages_and_tells_its_scores(trained: Object) -> None:
    status = trained["status"]
    assert condition(trained, "Succeeded")["status"] == "True", condition(trained, "Succeeded")
    kinds = ["Validated", "Admitted", "BaselineScored", "Trained", "Evaluated", "Published", "Promoted"]
    assert [condition(trained, k).get("status") for k in kinds] == ["True"] * len(kinds)
    assert status["scores"]["rows"] == 50
    assert float(status["scores"]["tuned"]["score"]) >= float(status["scores"]["base"]["score"])
    assert status["artifact"]["digest"].startswith("sha256:")
    assert status["resolved"]["baseFingerprint"].startswith("sha256:")
    assert [a["number"] for a in status["attempts"]] == [1] * 5


def test_report_card_and_traces_stand_beside_the_published_adapter(trained: Object, folder: Path) -> None:
    published, scores = folder / "reviews-v1", trained["status"]["scores"]
    manifest = json.loads((published / "manifest.json").read_text())
    assert {"README.md", "report.html", "evaluation/traces.jsonl", "evaluation/traces.parquet"} == {
        file["path"] for file in manifest["documents"]
    }
    traces = [json.loads(line) for line in (published / "evaluation" / "traces.jsonl").open()]
    assert [trace["model"] for trace in traces] == ["base", "tuned"] * scores["rows"]
    assert all(trace["prompt"] and trace["grades"] for trace in traces)
    tuned = [trace["score"] for trace in traces if trace["model"] == "tuned"]
    assert sum(tuned) / len(tuned) == pytest.approx(float(scores["tuned"]["score"]), abs=1e-4)
    assert "Row by row" in (published / "report.html").read_text()
    assert "model-index" in (published / "README.md").read_text()


def test_no_finalizer_or_annotation_of_the_framework_is_left_on_user_objects(trained: Object) -> None:
    assert "finalizers" not in trained["metadata"]
    assert not [a for a in trained["metadata"].get("annotations", {}) if "kopf" in a]


def test_the_same_spec_under_another_name_adopts_the_published_result(
    cluster: Cluster, trained: Object
) -> None:
    again = run("reviews-v1-again", evaluation=evaluation())
    again["spec"]["output"] = trained["spec"]["output"]
    cluster.apply(again)
    adopted = cluster.wait("FineTuneJob", "reviews-v1-again", ended, 300)
    assert condition(adopted, "Succeeded")["status"] == "True"
    assert [a["stage"] for a in adopted["status"]["attempts"]] == ["prepare"]
    assert adopted["status"]["artifact"]["digest"] == trained["status"]["artifact"]["digest"]


def test_the_alias_and_the_base_are_listed_and_answer_differently(
    served: Object, serving: openai.OpenAI
) -> None:
    assert {m.id for m in serving.models.list()} >= {"smollm2-135m-instruct", "reviews"}
    prompt: Any = [
        {
            "role": "user",
            "content": "Great drug, my acne is gone. Reply as JSON with condition and sentiment.",
        }
    ]
    answers = {
        model: serving.chat.completions.create(model=model, messages=prompt, temperature=0, max_tokens=24)
        for model in ("reviews", "smollm2-135m-instruct")
    }
    assert answers["reviews"].model == served["status"]["serving"]["version"]
    texts = {name: answer.choices[0].message.content for name, answer in answers.items()}
    assert texts["reviews"] != texts["smollm2-135m-instruct"]


def test_streams_and_completions_answer_too(served: Object, serving: openai.OpenAI) -> None:
    stream = serving.chat.completions.create(model="reviews", messages=QUESTION, max_tokens=8, stream=True)
    chunks = list(stream)
    assert len(chunks) > 1
    assert {c.model for c in chunks} == {served["status"]["serving"]["version"]}
    assert serving.completions.create(model="reviews", prompt="Paris is", max_tokens=4).choices[0].text


def test_a_wrong_key_and_an_unknown_model_are_refused_as_openai_does(
    served: Object, serving: openai.OpenAI
) -> None:
    with pytest.raises(openai.AuthenticationError):
        serving.with_options(api_key="sk-wrong").models.list()
    with pytest.raises(openai.NotFoundError, match="nobody"):
        serving.chat.completions.create(model="nobody", messages=QUESTION)


def test_a_new_version_rolls_under_load_without_a_failed_request(
    cluster: Cluster, served: Object, serving: openai.OpenAI, folder: Path, repetition: int
) -> None:
    old = cluster.get("AdapterDeployment", "reviews")["status"]["serving"]["version"]
    newest = "reviews-v1" if repetition == 0 else f"reviews-v{repetition + 1}"
    version = copy_version(folder, newest, f"reviews-v{repetition + 2}")

    def ask(_: int) -> str:
        return serving.chat.completions.create(model="reviews", messages=QUESTION, max_tokens=8).model

    with asking(ask, callers=5) as asked:
        start = time.monotonic()
        cluster.apply(adapter_deployment("reviews", "shared", version, allowUnpromoted=True))
        new = "reviews--" + version["digest"].removeprefix("sha256:")[:12]
        cluster.wait(
            "AdapterDeployment",
            "reviews",
            lambda d: ready(d) and d["status"]["serving"]["version"] == new,
            300,
        )
        seconds = time.monotonic() - start
        cluster.wait("ModelServer", "shared", lambda s: holds_only(cluster, new, old), 120)
    print(f"rolled in {seconds:.1f} s; requests answered {Counter(asked.answers)}; failed {asked.failures}")
    assert asked.failures == []
    assert set(asked.answers) == {old, new}


def holds_only(cluster: Cluster, new: str, old: str) -> bool:
    """The server manifest lists the new version and no longer the old one."""
    maps = cluster.core.list_namespaced_config_map(
        cluster.namespace, label_selector="finetune.dev/owner=shared"
    )
    text = "".join(m.data["manifest.json"] for m in maps.items if "manifest.json" in (m.data or {}))
    return new in text and old not in text


REFUSALS = [
    pytest.param({}, {"digest": "sha256:" + "0" * 64}, "DigestMismatch", id="a wrong digest"),
    pytest.param(
        {"verdict": "NoClearImprovement", "promoted": False}, {}, "Unpromoted", id="a gate that said no"
    ),
    pytest.param(
        {"baseModel": {"source": "x", "revision": None, "fingerprint": "sha256:" + "1" * 64}},
        {},
        "BaseMismatch",
        id="an adapter of another base",
    ),
    pytest.param(
        {}, {"source": "pvc://adapters/nowhere"}, "ArtifactMissing", id="an artifact that is not there"
    ),
]


@pytest.mark.parametrize(("manifest", "adapter", "reason"), REFUSALS)
def test_refused_with_a_reason_and_without_harm(
    cluster: Cluster,
    served: Object,
    serving: openai.OpenAI,
    folder: Path,
    manifest: Object,
    adapter: Object,
    reason: str,
) -> None:
    name = f"refused-{reason.lower()}"
    version = copy_version(folder, "reviews-v1", name, **manifest)
    cluster.apply(adapter_deployment(name, "shared", {**version, **adapter}))
    refused = cluster.wait(
        "AdapterDeployment", name, lambda d: condition(d, "Ready").get("reason") == reason, 120
    )
    assert condition(refused, "Ready")["status"] == "False"
    assert len(condition(refused, "Ready")["message"]) > 20
    assert "reviews" in {m.id for m in serving.models.list()}
    cluster.kubectl("delete", "adep", name)


def test_the_engine_has_no_port_and_the_gateway_no_admin_routes(cluster: Cluster, served: Object) -> None:
    pods = cluster.core.list_namespaced_pod(
        cluster.namespace, label_selector="finetune.dev/owner=shared"
    ).items
    engine = next(c for c in pods[0].spec.init_containers if c.name == "engine")
    assert not engine.ports
    script = "import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8000/v1/load_lora_adapter', data=b'{}'))"
    said = cluster.kubectl(
        "exec", pods[0].metadata.name, "-c", "gateway", "--", "python", "-c", script, check=False
    )
    assert "401" in said or "404" in said


def test_secrets_appear_in_no_status_event_or_log(cluster: Cluster, served: Object) -> None:
    pods = cluster.core.list_namespaced_pod(
        cluster.namespace, label_selector="finetune.dev/owner=shared"
    ).items
    logs = "".join(
        cluster.core.read_namespaced_pod_log(p.metadata.name, cluster.namespace, container=c)
        for p in pods
        for c in ("gateway", "engine")
    )
    told = cluster.kubectl("get", "ftj,msv,adep,events,pods,deployments,configmaps", "-o", "yaml")
    assert KEY not in logs
    assert KEY not in told
