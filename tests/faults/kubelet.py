"""Plays Job controller and kubelet: every Job of ours gets a pod that succeeds at once with a result."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from contextlib import aclosing
from typing import Any

from finetune_operator.core.manifests import finished
from finetune_operator.runtime.client import ApiError
from finetune_operator.runtime.kube import KubernetesApi
from finetune_operator.runtime.resources import JOB, MANAGED_BY, POD

log = logging.getLogger(__name__)
_NOW = "2026-01-01T00:00:00Z"
_DIGEST = "sha256:" + "0" * 64
_SCORE = {"score": 0.2, "low": 0.1, "high": 0.3}
_BETTER = {"score": 0.9, "low": 0.8, "high": 1.0}

SUMMARIES: dict[str, dict[str, Any]] = {
    "prepare": {
        "adopted": False,
        "baseName": "base",
        "baseRevision": None,
        "baseFingerprint": _DIGEST,
        "rows": 10,
        "holdoutRows": 10,
        "tokens": 100,
        "trainedTokens": 50,
        "datasetDigest": _DIGEST,
        "holdoutDigest": _DIGEST,
        "training": {
            "epochs": 1,
            "learningRate": 0.001,
            "effectiveBatchSize": 8,
            "maxLength": 64,
            "seed": 1,
            "steps": 2,
        },
        "lora": {"rank": 16, "alpha": 32},
        "warnings": [],
    },
    "baseline": {
        "metric": "exact",
        "rows": 10,
        **_SCORE,
        "graders": {"exact": 0.2},
        "verdict": "GoAhead",
        "blocking": False,
        "cached": False,
    },
    "train": {
        "steps": 2,
        "loss": 1.0,
        "tokens": 100,
        "tokensPerSecond": 10.0,
        "seconds": 10.0,
        "resumedFromStep": 0,
        "worldSize": 1,
    },
    "evaluate": {
        "metric": "exact",
        "rows": 10,
        "base": _SCORE,
        "tuned": _BETTER,
        "delta": {"score": 0.7, "low": 0.6, "high": 0.8},
        "graders": {"exact": {"base": 0.2, "tuned": 0.9}},
        "verdict": "Promote",
    },
    "publish": {
        "destination": "pvc://adapters/run",
        "digest": _DIGEST,
        "files": 2,
        "bytes": 100,
        "promoted": True,
        "verdict": "Promote",
    },
}


class Kubelet:
    """`started` counts the Jobs that were ever run, by (namespace, stage): more than one is wasted GPUs."""

    def __init__(self, api: KubernetesApi):
        self._api = api
        self._begun: set[str] = set()
        self._done: set[str] = set()
        self.started: Counter[tuple[str, str]] = Counter()

    async def run(self) -> None:
        """Watch for ever; like the real ones it begins again with a list when a request fails."""
        while True:
            try:
                await self._follow()
            except ApiError as error:
                log.warning("played kubelet lists again", extra={"error": str(error)})
                await asyncio.sleep(0.1)

    async def _follow(self) -> None:
        jobs, version = await self._api.list_all(JOB, None, MANAGED_BY)
        for job in jobs:
            await self._play(job)
        async with aclosing(self._api.watch(JOB, None, MANAGED_BY, version)) as events:
            async for event in events:
                if event["type"] in ("ADDED", "MODIFIED"):
                    await self._play(event["object"])

    async def _play(self, job: dict[str, Any]) -> None:
        metadata = job["metadata"]
        if metadata["uid"] in self._done or job["spec"].get("suspend") or finished(job):
            return
        if metadata["uid"] not in self._begun:
            self._begun.add(metadata["uid"])
            self.started[metadata["namespace"], metadata["labels"]["finetune.dev/stage"]] += 1
        await self._run_pod(job)
        body = {"status": _complete(job)}
        await self._api.patch(JOB, metadata["namespace"], f"{metadata['name']}/status", body)
        self._done.add(metadata["uid"])

    async def _run_pod(self, job: dict[str, Any]) -> None:
        namespace, name = job["metadata"]["namespace"], f"{job['metadata']['name']}-0"
        if await self._api.get(POD, namespace, name) is None:
            await self._api.create(POD, namespace, _pod(job, name))
        await self._api.patch(POD, namespace, f"{name}/status", {"status": _succeeded(job)})


def _pod(job: dict[str, Any], name: str) -> dict[str, Any]:
    template, metadata = job["spec"]["template"], job["metadata"]
    index = {"batch.kubernetes.io/job-completion-index": "0"}
    labels = {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": metadata["name"], **index}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "spec": template["spec"],
    }


def _succeeded(job: dict[str, Any]) -> dict[str, Any]:
    stage = job["metadata"]["labels"]["finetune.dev/stage"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    result = {
        "schemaVersion": 1,
        "stage": stage,
        "inputDigest": _DIGEST,
        "outcome": "Succeeded",
        "reason": "Completed",
        "message": "done",
        "summary": SUMMARIES[stage],
    }
    ended = {"exitCode": 0, "reason": "Completed", "message": json.dumps(result)}
    status = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
    status |= {"ready": False, "state": {"terminated": ended}}
    return {"phase": "Succeeded", "containerStatuses": [status]}


def _complete(job: dict[str, Any]) -> dict[str, Any]:
    """What the API server's validation asks of a Job that is Complete."""
    condition = {"status": "True", "lastProbeTime": _NOW, "lastTransitionTime": _NOW, "reason": "Done"}
    status: dict[str, Any] = {
        "startTime": _NOW,
        "completionTime": _NOW,
        "succeeded": job["spec"].get("completions", 1),
        "conditions": [{**condition, "type": t, "message": ""} for t in ("SuccessCriteriaMet", "Complete")],
    }
    if job["spec"].get("completionMode") == "Indexed":
        status["completedIndexes"] = "0"
    return status
