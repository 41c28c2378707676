"""The manifests that the end-to-end tests apply, and readers of what comes back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

Object = dict[str, Any]
DATA = Path("examples/drug-reviews/data")
BASE = "pvc://models/smollm2-135m-instruct"
LONG = {"epochs": 4, "learningRate": "1e-3", "effectiveBatchSize": 8, "maxLength": 512, "seed": 17}
"""Training that goes on long enough to be met in a step, also with one process per core."""
KEY = "sk-e2e-canary-4711"
"""The API key of the server `shared`; no status, event or log may hold it."""
SCHEMA = json.dumps({"type": "object", "required": ["condition", "sentiment"]})


def small_data() -> dict[str, str]:
    """48 real training rows and 50 held-out ones: enough for every stage, small enough for two cores."""
    train = (DATA / "train.jsonl").read_text().splitlines()[:48]
    holdout = (DATA / "holdout.jsonl").read_text().splitlines()[:50]
    return {"train.jsonl": "\n".join(train) + "\n", "holdout.jsonl": "\n".join(holdout) + "\n"}


def volume_claim(name: str, size: str) -> Object:
    """A claim of the embedded cluster's default storage class."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def config_map(name: str, **data: str) -> Object:
    """A ConfigMap with one key per file."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def run(name: str, **changes: Any) -> Object:
    """A FineTuneJob on the small data without an evaluation; `changes` replace parts of its spec."""
    spec: Object = {
        "baseModel": {"source": BASE},
        "method": "LoRA",
        "lora": {"rank": 8, "alpha": 16},
        # 48 rows train in a minute; rule 28 wants 100.
        "dataset": {"source": "configmap://reviews/train.jsonl", "rules": {"too_few": "Ignore"}},
        "training": {
            "epochs": 1,
            "learningRate": "1e-3",
            "effectiveBatchSize": 8,
            "maxLength": 512,
            "seed": 17,
        },
        "evaluation": {"accept": ["EvalMissing"]},
        "resources": {"gpusPerNode": 0, "memory": "6Gi"},
        "workspace": {"size": "5Gi"},
        "output": {"destination": f"pvc://adapters/{name}"},
    }
    spec.update(changes)
    spec = {key: value for key, value in spec.items() if value is not None}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": spec,
    }


def evaluation(**changes: Any) -> Object:
    """An evaluation of the small hold-out whose verdicts are all accepted."""
    graders = [
        {"name": "fields", "type": "FieldMatch", "fields": ["condition", "sentiment"]},
        {"name": "format", "type": "JsonSchema", "schema": SCHEMA},
    ]
    spec = {
        "dataset": {"source": "configmap://reviews/holdout.jsonl"},
        "graders": graders,
        "primary": "fields",
        "gate": {"minDelta": "0.05"},
        "maxTokens": 32,
        "accept": ["CheckTaskOrData", "NoClearImprovement"],
    }
    return {**spec, **changes}


def server(name: str, **changes: Any) -> Object:
    """A ModelServer on the small base for this machine's CPU."""
    spec = {
        "baseModel": {"source": BASE},
        "replicas": 1,
        "resources": {"gpus": 0, "memory": "6Gi"},
        "maxLoras": 2,
        "maxCpuLoras": 8,
        "maxLoraRank": 16,
        "artifactStore": "pvc://adapters",
        **changes,
    }
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "ModelServer",
        "metadata": {"name": name},
        "spec": spec,
    }


def adapter_deployment(name: str, server_name: str, adapter: Object, **changes: Any) -> Object:
    """An AdapterDeployment whose alias is its name."""
    spec = {"serverRef": {"name": server_name}, "alias": name, "adapter": adapter, **changes}
    metadata = {"name": name}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "AdapterDeployment",
        "metadata": metadata,
        "spec": spec,
    }


def condition(obj: Object, kind: str) -> Object:
    """One condition of an object, empty while unknown."""
    found = (c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind)
    return next(found, {})


def ended(obj: Object) -> bool:
    """A run that has succeeded or failed."""
    return condition(obj, "Succeeded").get("status") in ("True", "False")


def ready(obj: Object) -> bool:
    """A server or an alias that answers as wanted."""
    return condition(obj, "Ready").get("status") == "True"


def training_since(step: int) -> Callable[[Object], bool]:
    """True once the train stage has done this many steps."""

    def reached(job: Object) -> bool:
        progress = job.get("status", {}).get("progress", {})
        return job.get("status", {}).get("stage") == "Train" and int(progress.get("step") or 0) >= step

    return reached


def copy_version(
    folder: Path, source: str, target: str, scale: float = 1.01, **manifest_changes: Any
) -> Object:
    """Another version of a published adapter: its weights scaled, its manifest written anew."""
    old, new = folder / source, folder / target
    shutil.copytree(old, new)
    weights = new / "adapter_model.safetensors"
    save_file({k: v * scale for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    manifest = json.loads((new / "manifest.json").read_text())
    for entry in manifest["files"]:
        content = (new / entry["path"]).read_bytes()
        entry["sha256"], entry["bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    manifest.update(manifest_changes)
    data = json.dumps(manifest, indent=2).encode()
    (new / "manifest.json").write_bytes(data)
    for path in (new, *new.iterdir()):
        os.chown(path, 10001, 10001)
    return {"source": f"pvc://adapters/{target}", "digest": "sha256:" + hashlib.sha256(data).hexdigest()}


@dataclass
class Asked:
    """What became of requests: the version that gave each answer, and what each failure was."""

    answers: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def asking(ask: Callable[[int], str], callers: int, pause_seconds: float = 0.0) -> Iterator[Asked]:
    """Callers that send one request after the other while the block runs.

    `ask` sends the request of a number, which counts on with each, and returns the version that answered.
    """
    asked, stop = Asked(), threading.Event()

    def call(number: int) -> None:
        while not stop.wait(pause_seconds):
            try:
                asked.answers.append(ask(number))
            except Exception as error:
                asked.failures.append(repr(error))
            number += callers

    workers = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(callers)]
    for worker in workers:
        worker.start()
    try:
        yield asked
    finally:
        stop.set()
        for worker in workers:
            worker.join(timeout=60)
        asked.failures += ["a request did not end" for worker in workers if worker.is_alive()]
