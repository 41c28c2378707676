"""A canary with everything real but engine and cluster: the operator's plan, the agent, the gateway, clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.serving.observed import PodState
from tests.engine_stand_in import StandInEngine
from tests.unit.server.builders import NOW, World
from tests.unit.serving.pod import Pod, Publish, Users

ANALYSIS = {"minRequests": 40, "maxErrorRate": "0.05", "maxEmptyIncrease": "0.05", "maxFirstByteRatio": "5"}
ROLLOUT = {
    "steps": [{"weight": 20, "holdSeconds": 0}, {"weight": 60, "holdSeconds": 0}],
    "analysis": ANALYSIS,
}


class Operator:
    """The operator's plan of a server with one pod, which reads each manifest and is asked for its state."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.world = World()
        self._generation = 0

    def ask(self, entry: dict[str, Any], **rollout: Any) -> str:
        """The user names an adapter; returns the name of its version."""
        self._generation += 1
        name = f"reviews--{entry['digest'][7:19]}"
        adapter = {"source": entry["source"], "digest": entry["digest"]}
        body = {
            "metadata": {"name": "reviews", "creationTimestamp": "t", "generation": self._generation},
            "spec": {"serverRef": {"name": "shared"}, "alias": "reviews", "adapter": adapter},
            "status": {"resolved": {**adapter, "version": name}, "observedGeneration": self._generation},
        }
        body["spec"] |= {"rollout": {**ROLLOUT, **rollout}}
        self.world.deployments = (AdapterDeployment.model_validate(body),)
        return name

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Reconcile until what is told of the alias meets the condition."""
        async with asyncio.timeout(30):
            while True:
                self._reconcile()
                told = self.world.adapters()["reviews"]
                if condition(told):
                    return told
                await asyncio.sleep(0.02)  # the operator asks again and again

    def _reconcile(self) -> None:
        answer = json.loads(self.pod.agent.state().model_dump_json(by_alias=True))
        self.world.pods = (PodState("pod-1", "pod-1", answer["ready"], False, {}, answer, NOW),)
        self.world.reconcile()
        fresh = self.pod.folder / "fresh.json"
        fresh.write_text(self.world.children["ConfigMap"]["data"]["manifest.json"])
        fresh.replace(self.pod.folder / "manifest.json")


def serves(version: str) -> Callable[[dict[str, Any]], bool]:
    return lambda told: told["state"] == "Serving" and told["servingVersion"] == version


def reason(word: str) -> Callable[[dict[str, Any]], bool]:
    return lambda told: told.get("reason") == word


@pytest.fixture
async def operator(pod: Pod, publish: Publish) -> Operator:
    """The first version answers."""
    operator = Operator(pod)
    first = operator.ask(publish("first"))
    await operator.until(serves(first))
    return operator


async def test_a_good_version_is_promoted_without_a_failed_request(
    operator: Operator, publish: Publish
) -> None:
    async with operator.pod.api() as api:
        users = Users(api, "reviews")
        second = operator.ask(publish("second"))
        await operator.until(serves(second))
        assert await users.stop() == []


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        pytest.param("failing", "requests failed, maxErrorRate is 0.05", id="its requests fail"),
        pytest.param("silent", "requests were answered empty", id="its answers are empty"),
    ],
)
async def test_a_bad_version_goes_back_by_itself(
    operator: Operator, publish: Publish, stand_in: StandInEngine, defect: str, said: str
) -> None:
    async with operator.pod.api() as api:
        users = Users(api, "reviews")
        second = operator.ask(publish("second"))
        getattr(stand_in, defect).add(second)
        told = await operator.until(reason("RolledBack"))
        assert said in told["message"]
        await operator.until(lambda _: second not in operator.pod.phases())
        wrong = await users.stop()
        assert len(wrong) < 0.35 * len(users.codes), "no more than a step's share"
        users = Users(api, "reviews")
        await asyncio.sleep(0.1)
        assert await users.stop() == []


async def test_paused_from_the_start_only_who_names_the_version_gets_it(
    operator: Operator, publish: Publish
) -> None:
    second = operator.ask(publish("second"), paused=True)
    await operator.until(reason("Paused"))
    await operator.pod.until(lambda state: len(state.aliases[0].targets) == 2)
    body = {"model": "reviews", "prompt": "x"}
    async with operator.pod.api() as api:
        for asked, answers in (({"x-finetune-version": second}, True), ({}, False)):
            async with api.post("/v1/completions", json=body, headers=asked) as response:
                assert (response.headers["x-finetune-version"] == second) == answers
