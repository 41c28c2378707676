"""A small base model and a FineTuneJob beside its files, as on a user's machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.trainer_data.conftest import make_base

COMMIT = "1" * 40  # the only revision of the Hub's stand-in


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the base model."""
    return make_base(tmp_path_factory.mktemp("base"))


def spec() -> dict[str, Any]:
    """A spec whose rows and base are in a cluster."""
    return {
        "baseModel": {"source": "pvc://models/tiny"},
        "dataset": {"source": "configmap://rows/train.jsonl", "rules": {"too_few": "Ignore"}},
        "evaluation": {
            "dataset": {"source": "configmap://rows/holdout.jsonl"},
            "graders": [{"name": "exact", "type": "ExactMatch"}],
            "maxTokens": 16,
        },
        "resources": {"gpusPerNode": 1, "gpuType": "h200"},
        "output": {"destination": "pvc://adapters/tiny"},
    }


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes job.yaml; keyword arguments replace parts of the spec, None removes them."""

    def write(**changes: Any) -> Path:
        merged = {key: value for key, value in {**spec(), **changes}.items() if value is not None}
        job = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "tiny"}}
        path = tmp_path / "job.yaml"
        other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rows"}}
        path.write_text(yaml.safe_dump_all([other, {**job, "spec": merged}]))
        return path

    return write


@pytest.fixture
def rows(tmp_path: Path) -> tuple[str, ...]:
    """The flags that name a dozen training rows and a hundred held-out ones on this machine."""
    train, holdout = tmp_path / "train.jsonl", tmp_path / "holdout.jsonl"
    train.write_text("".join(_line("question", number) for number in range(12)))
    holdout.write_text("".join(_line("held out", number) for number in range(100)))
    return "--data", str(train), "--holdout", str(holdout)


def _line(text: str, number: int) -> str:
    return json.dumps({"prompt": f"{text} {number}", "completion": f"answer {number}"}) + "\n"
