"""A job of a tiny base through the real stages, in this process: prepare, then train."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.contracts import Job
from finetune_trainer.errors import UserError
from finetune_trainer.stages import prepare
from finetune_trainer.stages.train import train_process
from finetune_trainer.training.signals import StopRequest
from finetune_trainer.workspace import Workspace

RANK = 8
_ROWS = 8  # two steps of four
_DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Refused:
    """What prepare says against training this base."""

    sentence: str


@dataclass(frozen=True)
class Trained:
    """A run that ended well: where its output lies, what prepare and train said of it."""

    base: Path
    output: Path
    prepared: dict[str, Any]
    summary: dict[str, Any]


def run(base: Path, method: str, root: Path) -> Trained | Refused:
    """Prepare and train two steps; whatever training raises is raised."""
    job = Job.model_validate(_document(base, method, root))
    workspace = Workspace(root / "workspace")
    try:
        ready = prepare.run(job, workspace)
    except UserError as refusal:
        return Refused(str(refusal))
    result = train_process(job.model_copy(update={"stage": "train"}), workspace, StopRequest())
    return Trained(base, workspace.output_dir(job), dict(ready.summary), dict(result.summary))


def _document(base: Path, method: str, root: Path) -> dict[str, Any]:
    """job.json; base and rows lie where the operator would mount them."""
    _write_rows(Path(os.environ["FT_SOURCES_ROOT"]) / "configmap" / "rows" / "train.jsonl")
    spec = {
        "baseModel": {"source": f"pvc://{base.parent.name}/{base.name}"},
        "method": method,
        "lora": None if method == "Full" else {"rank": RANK, "alpha": 16},
        "dataset": {"source": "configmap://rows/train.jsonl", "rules": {"too_few": "Ignore"}},
        "training": {"epochs": 1, "effectiveBatchSize": 4, "learningRate": "1e-3"},
        "output": {"destination": f"pvc://adapters/{root.name}"},
        "resources": {"nodes": 1, "gpusPerNode": 0, "processesPerNode": 1},
    }
    return {
        "schemaVersion": 1, "namespace": "demo", "name": "family", "uid": "u", "stage": "prepare", "attempt": 1,
        "specDigest": _DIGEST, "inputDigest": _DIGEST, "spec": spec,
    }  # fmt: skip


def _write_rows(path: Path) -> None:
    """Questions with answers of unequal length, and every other one with a second answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(_row(number)) + "\n" for number in range(_ROWS)))


def _row(number: int) -> dict[str, Any]:
    turns = [("user", f"What is {number} times 7?"), ("assistant", f"It is {number * 7}." + " Yes." * number)]
    if number % 2:
        turns += [("user", "Are you sure?"), ("assistant", f"I am: {number * 7}.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}
