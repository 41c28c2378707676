"""A simulation of Kubernetes for tests of the plan: API server, Job controller and kubelet in a few lines.

It knows only what a FineTuneJob needs, and it is no stand-in for the real ones: tests/apiserver and tests/e2e
run those. Its use is to play thousands of histories in a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import FineTuneJobStatus
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Confirm, Create, Delete, Emit, Patch, Plan, Refusal
from finetune_operator.stages.observed import Observed
from finetune_operator.stages.plan import plan

Object = dict[str, Any]
SETTINGS = Settings.model_validate(
    {
        "images": {"trainer": "trainer:1", "serving": "serving:1"},
        "gpuTypes": {
            "h200": {
                "resourceName": "nvidia.com/gpu",
                "nodeSelector": {"gpu": "h200"},
                "memoryGiB": 139,
                "peakTflops": 989,
                "pricePerHour": "3.60",
                "spotPricePerHour": "1.80",
                "currency": "USD",
            },
            "bare": {},
        },
        "env": {"PROXY": "none"},
        "engineArgs": ["--enforce-eager"],
        "engineProfiles": {"tools": {"args": ["--tool-call-parser", "hermes"], "env": {"A": "1"}}},
    }
)
SPEC: Object = {
    "baseModel": {"source": "pvc://models/small"},
    "dataset": {"source": "configmap://reviews/train.jsonl"},
    "evaluation": {
        "dataset": {"source": "configmap://reviews/holdout.jsonl"},
        "graders": [{"name": "fields", "type": "FieldMatch", "fields": ["condition"]}],
    },
    "resources": {"gpusPerNode": 0, "cpu": "2", "memory": "6Gi"},
    "output": {"destination": "pvc://adapters/reviews-v1"},
}
SCORE = {"score": 0.6, "low": 0.52, "high": 0.68}
SUMMARIES: dict[str, Object] = {
    "prepare": {
        "adopted": False,
        "baseName": "small",
        "rows": 588,
        "holdoutRows": 150,
        "lora": {"rank": 16, "alpha": 32},
    },
    "baseline": {
        "metric": "fields",
        "rows": 150,
        **SCORE,
        "graders": {"fields": 0.6},
        "verdict": "GoodCandidate",
    },
    "train": {"steps": 74, "loss": 0.4},
    "evaluate": {
        "metric": "fields",
        "rows": 150,
        "base": SCORE,
        "tuned": {"score": 0.9, "low": 0.84, "high": 0.94},
        "delta": {"score": 0.3, "low": 0.22, "high": 0.38},
        "verdict": "Promote",
    },
    "publish": {
        "destination": "pvc://adapters/reviews-v1",
        "digest": "sha256:" + "a" * 64,
        "promoted": True,
        "verdict": "Promote",
    },
}


SUMMARIES |= {"grade-base": SUMMARIES["baseline"], "grade-tuned": SUMMARIES["evaluate"]}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Object:
    """A JSON merge patch: what is None goes."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def result_of(stage: str, outcome: str = "Succeeded", reason: str = "Completed", **summary: Any) -> str:
    """A termination message of the trainer."""
    document = {
        "schemaVersion": 1, "stage": stage, "inputDigest": "sha256:" + "0" * 64, "outcome": outcome,
        "reason": reason, "message": f"{stage} says {reason}.", "summary": {**SUMMARIES[stage], **summary},
    }  # fmt: skip
    return json.dumps(document)


class KubernetesSimulation:
    """One FineTuneJob and its children. Time stands still unless a test moves it."""

    def __init__(self, settings: Settings = SETTINGS, **changes: Any):
        self.settings = settings
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        metadata = {"name": "run", "namespace": "demo", "uid": "u-1", "generation": 1}
        self.object: Object = {"metadata": metadata, "spec": merged(SPEC, changes)}
        self.jobs: dict[str, Object] = {}
        self.pods: dict[str, list[Object]] = {}
        self.claims: dict[str, Object] = {
            name: {"metadata": {"uid": name}} for name in ("models", "adapters")
        }
        self.configmaps = {"reviews", "reviews/train.jsonl", "reviews/holdout.jsonl"}
        self.progress: Object | None = None
        self.progress_at: datetime | None = None
        self.refusal: Refusal | None = None
        self.server: ModelServer | None = None
        self.runs: tuple[Object, ...] = ()
        self.others: dict[tuple[str, str], Object] = {}
        self.events: list[Emit] = []
        self.created: list[str] = []
        self._uids = 0

    @property
    def status(self) -> Object:
        """The status as written."""
        written: Object = self.object.get("status", {})
        return written

    def condition(self, kind: str) -> tuple[str, str]:
        """(status, reason) of a condition."""
        found = self._condition(kind)
        return found["status"], found["reason"]

    def message(self, kind: str) -> str:
        """The message of a condition."""
        return str(self._condition(kind)["message"])

    def _condition(self, kind: str) -> Object:
        return next(c for c in self.status["conditions"] if c["type"] == kind)

    def observe(self) -> Observed:
        """What the operator sees."""
        pods = {name: tuple(found) for name, found in self.pods.items()}
        job = FineTuneJob.model_validate(self.object)
        return Observed(
            job,
            dict(self.jobs),
            pods,
            dict(self.claims),
            frozenset(self.configmaps),
            self.progress,
            self.runs,
            refusal=self.refusal,
            progress_at=self.progress_at or self.now,
            progress_failed=self.progress_at is not None,
            server=self.server,
        )

    def decide(self) -> Plan:
        """The plan for what is now."""
        return plan(self.observe(), self.settings, self.now)

    def reconcile(self) -> bool:
        """One reconcile and what the controllers do after it; whether anything changed."""
        decided = self.decide()
        before = (len(self.jobs), json.dumps(self.status, sort_keys=True))
        acted = [self._perform(action) for action in decided.actions]
        if decided.status is not None:
            FineTuneJobStatus.model_validate(decided.status)
            self.object["status"] = json.loads(json.dumps(decided.status))
        self._run_pods()
        return any(acted) or before != (len(self.jobs), json.dumps(self.status, sort_keys=True))

    def settle(self) -> KubernetesSimulation:
        """Reconcile until nothing changes any more."""
        for _ in range(40):
            if not self.reconcile():
                return self
        raise AssertionError("the plan does not come to rest")

    def pass_time(self, seconds: float) -> KubernetesSimulation:
        """Move the clock and settle."""
        self.now += timedelta(seconds=seconds)
        return self.settle()

    def change(self, **changes: Any) -> KubernetesSimulation:
        """The user edits the spec."""
        self.object["spec"] = merged(self.object["spec"], changes)
        self.object["metadata"]["generation"] += 1
        return self.settle()

    def running(self) -> str:
        """The name of the one Job that is not finished."""
        (name,) = [name for name, job in self.jobs.items() if not job["status"].get("conditions")]
        return name

    def end(self, message: str | None = None, **pod: Any) -> KubernetesSimulation:
        """The running Job ends with this message of its first pod (default: its stage succeeds)."""
        self.end_job(message, **pod)
        return self.settle()

    def end_job(self, message: str | None = None, **pod: Any) -> None:
        """The same, before the operator has looked."""
        name = self.running()
        stage = self.jobs[name]["metadata"]["labels"]["finetune.dev/stage"]
        said = result_of(stage) if message is None else message
        good = '"outcome": "Succeeded"' in said
        state = {"terminated": {"exitCode": 0 if good else 1, "message": said}}
        status = {
            "phase": "Succeeded" if good else "Failed",
            "containerStatuses": [{"name": stage, "state": state}],
        }
        self.pods[name][0] = merged(self.pods[name][0], merged({"status": status}, pod))
        self.finish_job(name, good=good)

    def finish_job(self, name: str, *, good: bool) -> None:
        """The Job controller writes the end of a Job."""
        conditions = [{"type": "Complete" if good else "Failed", "status": "True"}]
        self.jobs[name]["status"] = {"conditions": conditions}
        for pod in self.pods[name]:
            if pod["status"]["phase"] == "Running":
                pod["status"]["phase"] = "Failed"

    def fail(self, reason: str = "Unknown", **pod: Any) -> KubernetesSimulation:
        """The stage that runs ends with this reason, and the longest wait for another attempt passes."""
        stage = self.jobs[self.running()]["metadata"]["labels"]["finetune.dev/stage"]
        outcome = "Interrupted" if reason == "Interrupted" else "Failed"
        self.end(result_of(stage, outcome, reason), **pod)
        return self.pass_time(600)

    def to(self, stage: str) -> KubernetesSimulation:
        """Let stage after stage succeed until this one runs."""
        self.settle()
        while f"-{stage}-" not in self.running():
            self.end()
        return self

    def _perform(self, action: Any) -> bool:
        match action:
            case Create(manifest):
                return self._create(json.loads(json.dumps(manifest)))
            case Patch(_, "Job", name, body):
                before = json.dumps(self.jobs[name], sort_keys=True)
                self.jobs[name] = merged(self.jobs[name], body)
                return before != json.dumps(self.jobs[name], sort_keys=True)
            case Delete(_, "Pod", name, _, grace_seconds=0):
                return self._remove_pod(name)
            case Delete(_, kind, name, uid):
                return self._delete(kind, name, uid)
            case Confirm():
                return False
            case Emit():
                self.events.append(action)
                return False
        raise AssertionError(f"the plan asks for {action}")

    def _create(self, manifest: Object) -> bool:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        self._uids += 1
        manifest["metadata"]["uid"] = f"child-{self._uids}"
        shelf: dict[Any, Object] = {"Job": self.jobs, "PersistentVolumeClaim": self.claims}.get(
            kind, self.others
        )
        key = name if shelf is not self.others else (kind, name)
        if key in shelf:
            return False
        shelf[key] = manifest
        if kind == "Job":
            manifest["status"] = {}
            self.created.append(name)
        return True

    def _delete(self, kind: str, name: str, uid: str) -> bool:
        shelf = self.jobs if kind == "Job" else self.claims
        if name not in shelf or shelf[name]["metadata"]["uid"] != uid:
            return False
        del shelf[name]
        if kind == "Job":
            self.delete_children(name, uid)
        return True

    def _remove_pod(self, name: str) -> bool:
        """By force: the object goes, whatever its node does."""
        before = sum(map(len, self.pods.values()))
        self.pods = {
            job: [p for p in pods if p["metadata"]["name"] != name] for job, pods in self.pods.items()
        }
        return before != sum(map(len, self.pods.values()))

    def delete_children(self, name: str, uid: str) -> None:
        """The garbage collector follows owner references."""
        self.pods.pop(name, None)
        owned = [k for k, o in self.others.items() if o["metadata"]["ownerReferences"][0]["uid"] == uid]
        for key in owned:
            del self.others[key]

    def _run_pods(self) -> None:
        for name, job in self.jobs.items():
            if job["status"].get("conditions"):
                continue
            if job["spec"]["suspend"]:
                self.pods.pop(name, None)
            elif name not in self.pods:
                assert ("ConfigMap", name) in self.others, "the pod would wait for its ConfigMap"
                count = job["spec"]["completions"]
                self.pods[name] = [self._pod(name, job, index) for index in range(count)]

    def _pod(self, name: str, job: Object, index: int) -> Object:
        labels = {"batch.kubernetes.io/job-completion-index": str(index)}
        metadata = {
            "name": f"{name}-{index}-abcde",
            "labels": labels,
            "creationTimestamp": self.now.isoformat(),
        }
        spec = {**job["spec"]["template"]["spec"], "nodeName": "node-1"}
        return {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}
