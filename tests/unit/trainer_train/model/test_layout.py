"""How the train stage lays out its work: by the memory of the device that it got, and by what the job fixes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_trainer.contracts import Job
from finetune_trainer.errors import UserError
from finetune_trainer.stages.train import plan_execution
from finetune_trainer.training.plan import CPU_MICRO_BATCH_TOKENS, Execution
from tests.unit.trainer_base.shapes import LLAMA_1B, LLAMA_8B

GIB = 2**30


def _job(method: str, gpus: int, **training: Any) -> Job:
    spec = {
        "baseModel": {"source": "pvc://base/model"},
        "method": method,
        "dataset": {"source": "configmap://d/train.jsonl"},
        "training": training,
        "output": {"destination": "pvc://adapters/x"},
        "resources": {"nodes": 1, "gpusPerNode": gpus},
    }
    return Job.model_validate({
        "schemaVersion": 1, "namespace": "demo", "name": "x", "uid": "u", "stage": "train", "attempt": 1,
        "specDigest": "sha256:" + "0" * 64, "inputDigest": "sha256:" + "1" * 64, "spec": spec,
    })  # fmt: skip


def _summary(method: str, rows: int = 32, longest: int = 1024) -> dict[str, Any]:
    training = {"effectiveBatchSize": rows, "maxLength": 4096}
    return {
        "training": training,
        "longestRow": longest,
        "method": method,
        "lora": None if method == "Full" else {"rank": 16, "alpha": 32},
    }


def _device(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    device = SimpleNamespace(name="NVIDIA H200", total_memory=gib * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)


def _folder(tmp_path: Path, config: dict[str, Any]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


CHOSEN = [
    ("8B LoRA on 80 GiB keeps activations", LLAMA_8B, "LoRA", 1, 80, {}, Execution(8192)),
    ("8B LoRA on 24 GiB recomputes", LLAMA_8B, "LoRA", 1, 24, {}, Execution(4096, "Enabled")),
    ("a step of few rows is one micro-batch", LLAMA_8B, "LoRA", 4, 140, {}, Execution(8192)),
    ("1B Full on one GPU", LLAMA_1B, "Full", 1, 80, {}, Execution(16384, "Disabled", 2)),
    ("8B Full on four GPUs", LLAMA_8B, "Full", 4, 80, {}, Execution(8192, "Enabled", 2)),
    ("8B Full on two GPUs", LLAMA_8B, "Full", 2, 80, {}, Execution(8192, "Disabled", 2, "Optimizer")),
    ("a job that fixes its layout", LLAMA_1B, "Full", 1, 80,
     {"microBatchTokens": 2048, "gradientCheckpointing": "Enabled", "zeroStage": 3, "offload": "All"},
     Execution(2048, "Enabled", 3, "All")),
    ("a micro-batch shorter than a row stays as it was given", LLAMA_8B, "LoRA", 1, 80, {"microBatchTokens": 64},
     Execution(64)),
    ("kept activations", LLAMA_8B, "LoRA", 1, 26, {"gradientCheckpointing": "Disabled"}, Execution(1024)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "method", "gpus", "gib", "training", "expected"),
    [c[1:] for c in CHOSEN],
    ids=[c[0] for c in CHOSEN],
)
def test_on_gpus_the_memory_plan_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    method: str,
    gpus: int,
    gib: float,
    training: dict[str, Any],
    expected: Execution,
) -> None:
    _device(monkeypatch, gib)
    model = _folder(tmp_path, config)
    assert plan_execution(_job(method, gpus, **training), _summary(method), model) == expected


def test_what_does_not_fit_is_refused_with_the_device_and_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _device(monkeypatch, 39.5)
    with pytest.raises(UserError, match=r"NVIDIA H200: .* 39\.5 GiB, .*; set "):
        plan_execution(_job("Full", 1, offload="None"), _summary("Full"), _folder(tmp_path, LLAMA_8B))


@pytest.mark.parametrize(
    ("method", "training", "expected"),
    [
        ("LoRA", {}, Execution(CPU_MICRO_BATCH_TOKENS)),
        ("Full", {}, Execution(CPU_MICRO_BATCH_TOKENS, zero_stage=2)),
        ("LoRA", {"microBatchTokens": 256, "gradientCheckpointing": "Enabled"}, Execution(256, "Enabled")),
    ],
    ids=["LoRA", "Full", "a job that says how"],
)
def test_on_a_cpu_the_job_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    training: dict[str, Any],
    expected: Execution,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert plan_execution(_job(method, 0, **training), _summary(method), tmp_path) == expected
