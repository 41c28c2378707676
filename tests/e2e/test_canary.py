"""A version that answers worse goes back by itself, and one that answers as well is promoted by steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from dev.demo.objects import Cluster
from tests.e2e.builders import DATA, Object, adapter_deployment, asking, condition, copy_version, ready

pytestmark = pytest.mark.e2e
CALLERS = 4
ANSWER_TOKENS = 24
"""Enough for the JSON that the adapter was trained to answer, and cut for one that does not come to an end."""
ROLLOUT = {
    "steps": [{"weight": 50, "holdSeconds": 0}],
    "analysis": {"minRequests": 20, "maxErrorRate": "0.1", "maxCutIncrease": "0.3"},
}


def asks_for_reviews(client: openai.OpenAI, alias: str) -> Callable[[int], str]:
    """Held-out reviews for the alias, one after the other."""
    rows = [json.loads(line)["messages"][:-1] for line in (DATA / "holdout.jsonl").open()][:50]

    def ask(number: int) -> str:
        return client.chat.completions.create(
            model=alias, messages=rows[number % len(rows)], max_tokens=ANSWER_TOKENS, temperature=0
        ).model

    return ask


def rolls(cluster: Cluster, adapter: Object) -> None:
    cluster.apply(adapter_deployment("canary", "shared", adapter, allowUnpromoted=True, rollout=ROLLOUT))


def rollout(deployment: Object) -> Object:
    found: Object = deployment.get("status", {}).get("rollout") or {}
    return found


def version_of(adapter: Object) -> str:
    return f"canary--{adapter['digest'].removeprefix('sha256:')[:12]}"


def test_a_worse_version_goes_back_by_itself_and_a_good_one_is_promoted(
    cluster: Cluster, served: Object, serving: openai.OpenAI, folder: Path
) -> None:
    good, worse, better = (
        copy_version(folder, "reviews-v1", name, scale)
        for name, scale in (("canary-1", 1.02), ("canary-worse", 6.0), ("canary-2", 1.03))
    )
    rolls(cluster, good)
    cluster.wait("AdapterDeployment", "canary", ready, 120)
    with asking(asks_for_reviews(serving, "canary"), CALLERS) as asked:
        rolls(cluster, worse)
        gone = cluster.wait("AdapterDeployment", "canary", lambda d: has_ended(d, worse), 300)
        assert rollout(gone)["phase"] == "RolledBack", rollout(gone)
        assert "were cut" in condition(gone, "Ready")["message"]
        assert gone["status"]["serving"]["version"] == version_of(good)
        rolls(cluster, better)
        cluster.wait("AdapterDeployment", "canary", lambda d: promoted(d, better), 300)
    assert asked.failures == []
    assert set(asked.answers) == {version_of(good), version_of(worse), version_of(better)}
    events = cluster.kubectl("get", "events", "--field-selector", "involvedObject.name=canary")
    assert "RolledBack" in events
    cluster.kubectl("delete", "adep", "canary", "--timeout=60s")


def has_ended(deployment: Object, adapter: Object) -> bool:
    found = rollout(deployment)
    return found.get("to") == version_of(adapter) and found.get("phase") in ("RolledBack", "Complete")


def promoted(deployment: Object, adapter: Object) -> bool:
    serving = deployment["status"].get("serving") or {}
    return ready(deployment) and serving.get("version") == version_of(adapter)
