"""A base that is sharded over two processes (gloo) from the load on, beside the same one whole in each."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from finetune_trainer.trained_rows import as_batch, writing_rows
from tests.tiny_models import make_text_model

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("gang_worker.py")
Runs = Callable[[str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, learnable_rows: Any) -> Path:
    """The folder that two processes leave behind after all runs of gang_worker."""
    folder = tmp_path_factory.mktemp("gang")
    base = make_text_model(folder / "base", "llama")
    with writing_rows(folder / "rows.arrow") as write:
        write(as_batch(learnable_rows[:16]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(WORKER), str(base), str(folder / "rows.arrow"), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=600)
    return folder


@pytest.fixture(scope="module")
def runs(root: Path) -> Runs:
    """What a process (by rank) found in a run: weights of the base that it held, losses."""
    return lambda name, rank: json.loads((root / f"{name}-{rank}.json").read_text())


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["LoRA, ZeRO-3", "Full, ZeRO-3"])
def test_each_process_holds_half_of_the_base_from_the_load_on(name: str, rank: int, runs: Runs) -> None:
    whole = runs("LoRA", rank)["loaded"]
    assert runs(name, rank)["loaded"] == runs(name, rank)["trained"] == whole / 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_quantised_base_is_loaded_whole_and_trained_in_halves(rank: int, runs: Runs) -> None:
    sharded = runs("QLoRA, ZeRO-3", rank)
    assert sharded["trained"] == sharded["loaded"] / 2


def test_sharding_keeps_the_precision_of_rotary_frequencies(runs: Runs) -> None:
    assert runs("LoRA, ZeRO-3", 0)["types"] == runs("LoRA", 0)["types"] == ["torch.float32"]


@pytest.mark.parametrize(
    ("name", "whole", "tolerance"),
    [
        ("LoRA, ZeRO-3", "LoRA", 1e-3),
        ("LoRA, ZeRO-3, recomputed", "LoRA", 1e-3),
        ("LoRA, ZeRO-3, selective", "LoRA", 1e-3),
        ("LoRA, ZeRO-3, resumed", "LoRA", 1e-3),
        ("QLoRA, ZeRO-3", "QLoRA", 1e-3),
        ("QLoRA, ZeRO-3, resumed", "QLoRA", 1e-3),
        ("Full, ZeRO-3", "Full, ZeRO-2", 1e-5),
    ],
)
def test_sharding_changes_no_loss_and_no_saved_weight(
    name: str, whole: str, tolerance: float, root: Path, runs: Runs
) -> None:
    assert runs(name, 0)["losses"] == pytest.approx(runs(whole, 0)["losses"], abs=tolerance)
    file = "model.safetensors" if name.startswith("Full") else "adapter_model.safetensors"
    sharded, expected = (load_file(root / run / file) for run in (name, whole))
    assert sharded.keys() == expected.keys()
    assert all(sharded[key].shape == expected[key].shape for key in expected)
    assert max(abs(sharded[key] - expected[key]).max() for key in expected) < 20 * tolerance
