"""A run keeps the trainer image that it started with: a newer operator writes job.json for that trainer too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.unit.stages.kubernetes_simulation import KubernetesSimulation

# The fields of the trainer's models when engine profiles, servers that score and judges did not exist yet.
_MODEL = {"source": None, "revision": None, "fingerprint": None}
_DATASET = {"source": None, "revision": None}
_GRADER = {"name": None, "type": None, "fields": None, "schema": None}
KNOWN: dict[str, Any] = {
    **dict.fromkeys(
        ("schemaVersion", "namespace", "name", "uid", "stage", "attempt", "specDigest", "inputDigest")
    ),
    "spec": {
        **dict.fromkeys(("goal", "knowledgeChanges", "method", "fallbackMethod")),
        "baseModel": _MODEL,
        "lora": dict.fromkeys(("rank", "alpha", "rankStabilized", "targetModules")),
        "dataset": {**_DATASET, "rules": None},
        "training": dict.fromkeys(
            (
                "epochs", "learningRate", "effectiveBatchSize", "maxLength", "seed", "microBatchTokens",
                "gradientCheckpointing", "zeroStage", "offload",
            )
        ),
        "evaluation": {
            "dataset": _DATASET,
            "graders": _GRADER,
            "primary": None,
            "gate": {"minDelta": None},
            "maxTokens": None,
        },
        "output": {"destination": None},
        "resources": dict.fromkeys(("nodes", "gpusPerNode", "processesPerNode")),
        "savings": dict.fromkeys(("callsPerMonth", "removedPromptTokens", "pricePerMillionTokens")),
    },
    "accelerator": dict.fromkeys(
        ("name", "memoryGiB", "peakTflops", "pricePerHour", "currency", "spot")
    ),
    "otherGpus": dict.fromkeys(("name", "memoryGiB")),
    "budget": dict.fromkeys(("limit", "currency")),
    "calibration": dict.fromkeys(("mfu", "runs")),
    "publish": dict.fromkeys(("promoted", "verdict", "accepted")),
}  # fmt: skip
ON_GPUS = {
    "resources": {"gpusPerNode": 1, "gpuType": "h200", "spot": True},
    "budget": {"limit": "50", "currency": "USD"},
}


def _unknown(value: object, known: Mapping[str, Any] | None, path: str = "") -> Iterator[str]:
    """The paths that a document has beyond the known ones; below a known leaf anything goes."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and known is not None:
            for name, inner in item.items():
                yield from (
                    _unknown(inner, known[name], f"{path}.{name}") if name in known else [f"{path}.{name}"]
                )


@pytest.mark.parametrize("stage", ["baseline", "train", "evaluate", "publish"])
@pytest.mark.parametrize("changes", [{}, ON_GPUS], ids=["on the CPU", "on GPUs with a budget"])
def test_a_run_of_before_the_upgrade_is_told_only_what_its_trainer_knows(
    stage: str, changes: dict[str, Any]
) -> None:
    world = KubernetesSimulation(**changes).to("prepare")
    world.status["pinned"].pop("engineProfile", None)  # an operator before engine profiles wrote it
    world.to(stage)
    document = json.loads(world.others["ConfigMap", world.running()]["data"]["job.json"])
    assert world.status["pinned"]["engineArgs"] == ["--enforce-eager"]
    assert list(_unknown(document, KNOWN)) == []
