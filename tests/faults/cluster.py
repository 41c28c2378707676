"""A namespace with everything that a run names, and how to see where a run stands."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import yaml

from finetune_operator.runtime.client import ApiError
from finetune_operator.runtime.kube import KubernetesApi
from finetune_operator.runtime.resources import CLAIM, CONFIGMAP, FINETUNEJOB, JOB, POD, Resource

NAMESPACES = Resource("v1", "Namespace", "namespaces")
ACCOUNTS = Resource("v1", "ServiceAccount", "serviceaccounts")

RUN = yaml.safe_load("""
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: run}
spec:
  baseModel: {source: "pvc://base-models/base"}
  dataset: {source: "configmap://data/train.jsonl"}
  evaluation:
    dataset: {source: "configmap://data/holdout.jsonl"}
    graders: [{name: exact, type: ExactMatch}]
  resources: {gpusPerNode: 0}
  output: {destination: "pvc://adapters/run"}
""")


async def make_namespace(api: KubernetesApi, name: str) -> None:
    """A namespace with the claims and the data of RUN; the account is the controller manager's to make."""
    await api.create(NAMESPACES, None, _named("Namespace", name))  # type: ignore[arg-type]
    await api.create(ACCOUNTS, name, _named("ServiceAccount", "default"))
    rows = {"train.jsonl": "{}\n", "holdout.jsonl": "{}\n"}
    await api.create(CONFIGMAP, name, {**_named("ConfigMap", "data"), "data": rows})
    for claim in ("base-models", "adapters"):
        size = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        await api.create(CLAIM, name, {**_named("PersistentVolumeClaim", claim), "spec": size})


async def start_run(api: KubernetesApi, namespace: str) -> dict[str, Any]:
    """Create RUN."""
    return await api.create(FINETUNEJOB, namespace, RUN)


async def finished(api: KubernetesApi, namespace: str) -> dict[str, Any]:
    """Wait until the run has an outcome; returns the object."""
    while True:
        jobs, version = await api.list_all(FINETUNEJOB, namespace)
        if jobs and _outcome(jobs[0]) in ("True", "False"):
            return jobs[0]
        try:
            async with aclosing(api.watch(FINETUNEJOB, namespace, None, version)) as events:
                async for event in events:
                    run: dict[str, Any] = event["object"]
                    if event["type"] != "BOOKMARK" and _outcome(run) in ("True", "False"):
                        return run
        except ApiError:
            await asyncio.sleep(0.1)


def essence(run: dict[str, Any]) -> dict[str, Any]:
    """What must be equal however often the operator died: everything but times and names with uids."""
    status = run["status"]
    return {
        "conditions": {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]},
        "attempts": [(a["stage"], a["number"], a["state"]) for a in status["attempts"]],
        "artifact": status.get("artifact"),
        "scores": status.get("scores"),
        "marks": (run["metadata"].get("annotations"), run["metadata"].get("finalizers")),
    }


async def standing(api: KubernetesApi, namespace: str) -> str:
    """Where a run stands, with its children, for the message of a test that waited in vain."""
    kinds = (FINETUNEJOB, JOB, POD)
    found = [item for kind in kinds for item in (await api.list_all(kind, namespace))[0]]
    shown = [{"name": item["metadata"]["name"], "status": item.get("status")} for item in found]
    return str(yaml.safe_dump(shown, sort_keys=False))


def _outcome(run: dict[str, Any]) -> str:
    conditions = (run.get("status") or {}).get("conditions") or ()
    return next((str(c["status"]) for c in conditions if c["type"] == "Succeeded"), "Unknown")


def _named(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
