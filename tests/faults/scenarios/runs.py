"""The scenarios of a FineTuneJob."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import Any

import yaml

from finetune_operator.core.manifests import items, label, mapping
from tests.faults.cluster import trainer
from tests.faults.cluster.client import Object
from tests.faults.cluster.nodes import NOW, STAGE, PlayedPod
from tests.faults.scenarios.scenario import Scenario, World

RUN: Object = yaml.safe_load("""
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: run}
spec:
  baseModel: {source: "pvc://base-models/base"}
  dataset: {source: "configmap://data/train.jsonl"}
  evaluation: {accept: [EvalMissing]}
  resources: {gpusPerNode: 0}
  output: {destination: "pvc://adapters/run"}
""")
EVALUATION = {
    "dataset": {"source": "configmap://data/holdout.jsonl"},
    "graders": [{"name": "exact", "type": "ExactMatch"}],
}
MANAGED_BY = "app.kubernetes.io/managed-by"
LABELS = tuple(f"finetune.dev/{key}" for key in ("kind", "owner", "uid", "stage", "attempt"))
Script = Callable[[World], Coroutine[Any, Any, None]]


def run(**spec: Any) -> Object:
    """RUN, which has the stages prepare, train and publish, with other fields of its spec."""
    manifest = copy.deepcopy(RUN)
    manifest["spec"] |= spec
    return manifest


def ends(succeeded: bool, **spec: Any) -> Script:
    """The run ends by itself."""

    async def script(world: World) -> None:
        await world.create(run(**spec))
        await world.until("FineTuneJob", "run", "Succeeded", str(succeeded))

    return script


async def is_suspended_and_resumed(world: World) -> None:
    """The user suspends the run while it trains, and lets it go on once its pod is gone."""
    await world.create(run())
    await running(world, "train")
    await world.change("FineTuneJob", "run", suspend=True)
    await world.until("FineTuneJob", "run", "Admitted", "False", "Suspended")
    await world.history.until(lambda: not pods(world, "train"))
    await world.change("FineTuneJob", "run", suspend=False)
    await world.until("FineTuneJob", "run", "Succeeded", "True")


def is_deleted_in(stage: str) -> Script:
    """The user deletes the run while a stage runs."""

    async def script(world: World) -> None:
        await world.create(run(evaluation=EVALUATION))
        await running(world, stage)
        await world.delete("FineTuneJob", "run")
        await world.until_gone("FineTuneJob", "Job", "Pod", "ConfigMap", "PersistentVolumeClaim")

    return script


async def is_deleted_and_created_again(world: World) -> None:
    """A new run of the same name must not take its predecessor's children for its own."""
    await world.create(run())
    await running(world, "train")
    await world.delete("FineTuneJob", "run")
    await world.history.until(lambda: not world.get("FineTuneJob", "run"))
    await world.create(run())
    await world.until("FineTuneJob", "run", "Succeeded", "True")


async def loses_its_namespace(world: World) -> None:
    """The administrator deletes the namespace."""
    await world.create(run())
    await running(world, "train")
    await world.client.delete("Namespace", None, world.namespace)
    await world.until_gone("FineTuneJob", "Job", "Pod", "ConfigMap", "PersistentVolumeClaim")


async def waits_for_a_quota(world: World) -> None:
    """A ResourceQuota refuses the Job of the run; then the administrator takes it away."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    await world.create({**quota, "spec": {"hard": {"count/jobs.batch": "0"}}})
    await world.history.until(lambda: bool(mapping(world.get("ResourceQuota", "none"), "status", "hard")))
    await _until_refused(world)
    await world.create(run())
    await world.until("FineTuneJob", "run", "Admitted", "False", "Refused")
    await world.delete("ResourceQuota", "none")
    await world.until("FineTuneJob", "run", "Succeeded", "True")


async def waits_for_a_policy(world: World) -> None:
    """An admission policy (what Kyverno or Gatekeeper do with a webhook) refuses the Job; then it goes."""
    await world.client.create(_policy(world.namespace))
    await world.client.create(_binding(world.namespace))
    await _until_refused(world)
    await world.create(run())
    await world.until("FineTuneJob", "run", "Admitted", "False", "Refused")
    await world.client.delete("ValidatingAdmissionPolicyBinding", None, world.namespace)
    await world.client.delete("ValidatingAdmissionPolicy", None, world.namespace)
    await world.until("FineTuneJob", "run", "Succeeded", "True")


async def loses_its_node(world: World) -> None:
    """The node of the training pod dies: the pod stays Terminating until the administrator deletes the node."""
    await world.create(run())
    await running(world, "train")
    [pod] = pods(world, "train")
    name = pod["metadata"]["name"]
    await _disrupt(world, name, "DeletionByTaintManager")
    await world.delete("Pod", name, gracePeriodSeconds=1)
    await world.until("FineTuneJob", "run", "Admitted", "False")
    await _disrupt(world, name, "DeletionByPodGC", phase="Failed")
    await world.delete("Pod", name, gracePeriodSeconds=0)
    await world.until("FineTuneJob", "run", "Succeeded", "True")


async def is_left_on_a_dead_node(world: World) -> None:
    """The same, and no administrator comes: after their deadline the GPUs are let go, elsewhere it goes on."""
    await world.create(run())
    await running(world, "train")
    [pod] = pods(world, "train")
    await _disrupt(world, pod["metadata"]["name"], "DeletionByTaintManager")
    await world.delete("Pod", pod["metadata"]["name"], gracePeriodSeconds=1)
    await world.until("FineTuneJob", "run", "Succeeded", "True")


async def loses_a_job(world: World) -> None:
    """Somebody deletes the Job of the stage that runs."""
    await world.create(run())
    await running(world, "train")
    [job] = [job for job in world.history.of("Job") if label(job, STAGE) == "train"]
    await world.delete("Job", job["metadata"]["name"], propagationPolicy="Background")
    await world.until("FineTuneJob", "run", "Succeeded", "True")


async def loses_its_labels(world: World) -> None:
    """Somebody takes our labels off the Job and the pod of the stage that runs."""
    await world.create(run())
    await running(world, "train")
    bare = {"metadata": {"labels": dict.fromkeys((MANAGED_BY, *LABELS))}}
    for kind in ("Job", "Pod"):
        [child] = [child for child in world.history.of(kind) if label(child, STAGE) == "train"]
        await world.client.patch(kind, world.namespace, child["metadata"]["name"], bare)
    await world.until("FineTuneJob", "run", "Succeeded", "True")


async def is_parked(world: World) -> None:
    """Somebody else suspends the Job of the stage that runs, and resumes it later."""
    await world.create(run())
    await running(world, "train")
    [job] = [job["metadata"]["name"] for job in world.history.of("Job") if label(job, STAGE) == "train"]
    await world.change("Job", job, suspend=True)
    await world.history.until(lambda: not pods(world, "train"))
    await world.until("FineTuneJob", "run", "Admitted", "False")
    await world.change("Job", job, suspend=False)
    await world.until("FineTuneJob", "run", "Succeeded", "True")


async def _disrupt(world: World, pod: str, reason: str, **status: str) -> None:
    """What the taint manager and the pod garbage collector write before they delete a pod."""
    target = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": f"{reason}: node is gone",
    }
    conditions = [{**target, "lastTransitionTime": NOW}]
    await world.client.patch(
        "Pod", world.namespace, pod, {"status": {**status, "conditions": conditions}}, "status"
    )


async def running(world: World, stage: str) -> None:
    """Wait until the operator knows that a pod of the stage runs."""

    def holds() -> bool:
        listed = items(world.get("FineTuneJob", "run"), "status", "attempts")
        states = [attempt["state"] for attempt in listed if attempt["stage"] == stage]
        phases = [mapping(pod, "status").get("phase") for pod in pods(world, stage)]
        return "Running" in phases and "Running" in states

    await world.history.until(holds)


def pods(world: World, stage: str) -> list[Object]:
    """The pods of a stage."""
    return [pod for pod in world.history.of("Pod") if label(pod, STAGE) == stage]


async def _until_refused(world: World) -> None:
    """The API server learns of policies and quotas a moment after it stored them, and tells nobody when."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "any"},
        "spec": {"template": template},
    }
    while not await world.client.refuses(job, world.namespace):  # noqa: ASYNC110
        await asyncio.sleep(0.1)


def _policy(name: str) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["batch"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["jobs"],
                    }
                ],
            },
            "validations": [{"expression": "false", "message": "Jobs need a cost centre."}],
        },
    }


def _binding(namespace: str) -> Object:
    names = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {
            "policyName": namespace,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": names},
        },
    }


def _unlabelled(pod: PlayedPod) -> bool:
    return not label(pod.manifest, STAGE)


SCENARIOS = (
    Scenario("a run succeeds", ends(True, evaluation=EVALUATION)),
    Scenario("a gang of two pods succeeds", ends(True, resources={"nodes": 2, "gpusPerNode": 1})),
    Scenario("the data are wrong", ends(False), {"prepare": (trainer.fail("UserError", 64),)}),
    Scenario("training needs too much memory", ends(False), {"train": (trainer.be_killed_for_memory,)}),
    Scenario("training crashes once", ends(True), {"train": (trainer.crash, trainer.succeed)}),
    Scenario("training always crashes", ends(False), {"train": (trainer.crash,)}),
    Scenario(
        "training hangs and says so", ends(True), {"train": (trainer.fail("Hang", 79), trainer.succeed)}
    ),
    Scenario(
        "training stands still",
        ends(True),
        {"train": (trainer.stand_still, trainer.go_on)},
        dying=trainer.be_killed,
        vague=True,
        limit_seconds=240,
    ),
    Scenario(
        "the training pod is evicted",
        ends(True),
        {"train": (trainer.be_evicted, trainer.succeed)},
        vague=True,
    ),
    Scenario(
        "one pod of a gang is evicted",
        ends(True, resources={"nodes": 2, "gpusPerNode": 1}),
        {
            "train/0": (trainer.keep_running, trainer.succeed),
            "train/1": (trainer.be_evicted, trainer.succeed),
        },
        vague=True,
    ),
    Scenario(
        "the training pod is preempted without a word",
        ends(True),
        {"train": (trainer.be_evicted, trainer.go_on)},
        dying=trainer.be_killed,
        vague=True,
    ),
    Scenario("the image cannot be pulled", ends(False), {"prepare": (trainer.lack_its_image,)}),
    Scenario(
        "a run is suspended and resumed",
        is_suspended_and_resumed,
        {"train": (trainer.keep_running, trainer.succeed)},
    ),
    *(
        Scenario(f"a run is deleted during {stage}", is_deleted_in(stage), {stage: (trainer.keep_running,)})
        for stage in ("prepare", "baseline", "train", "evaluate", "publish")
    ),
    Scenario(
        "a run is deleted and created again",
        is_deleted_and_created_again,
        {"train": (trainer.keep_running, trainer.succeed)},
    ),
    Scenario("the namespace is deleted", loses_its_namespace, {"train": (trainer.keep_running,)}),
    Scenario("a quota refuses the Job", waits_for_a_quota),
    Scenario("an admission policy refuses the Job", waits_for_a_policy),
    Scenario(
        "the node of the training pod dies",
        loses_its_node,
        {"train": (trainer.keep_running, trainer.go_on)},
        dying=trainer.stay,
        vague=True,
    ),
    Scenario(
        "the node of the training pod dies and nobody comes",
        is_left_on_a_dead_node,
        {"train": (trainer.keep_running, trainer.go_on)},
        dying=trainer.stay,
        vague=True,
        limit_seconds=180,
    ),
    Scenario(
        "the training Job is deleted",
        loses_a_job,
        {"train": (trainer.keep_running, trainer.go_on)},
        vague=True,
    ),
    Scenario(
        "the training Job is suspended by somebody else",
        is_parked,
        {"train": (trainer.keep_running, trainer.succeed)},
    ),
    Scenario(
        "the labels of Job and pod are taken away",
        loses_its_labels,
        {"train": (trainer.wait_for(_unlabelled), trainer.succeed)},
        vague=True,
    ),
)
