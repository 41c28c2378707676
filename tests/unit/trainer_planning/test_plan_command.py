"""`finetune-trainer plan`: exit codes, the JSON that stays stable, the text for people."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.cli.plan import main
from tests.unit.trainer_planning import shapes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config.json of an 8B model."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(shapes.LLAMA_8B))
    return path


def _plan(config: Path, flags: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["--model", str(config), *flags.split(), "--output", "json"])
    return code, json.loads(capsys.readouterr().out)


KNOWN = [
    ("Full on 4 x 80", "--method Full --gpus 4 --zero-stage 2 --gpu-memory-gib 80 --tokens-per-microbatch 4096", 0),
    ("Full on 2 x 80", "--method Full --gpus 2 --zero-stage 2 --gpu-memory-gib 80 --tokens-per-microbatch 4096", 1),
    ("ZeRO-3 on 2 x 80", "--method Full --gpus 2 --zero-stage 3 --gpu-memory-gib 80", 1),
    ("offloaded on 2 x 40", "--method Full --gpus 2 --zero-stage 2 --offload optimizer --gpu-memory-gib 40", 1),
    ("Full on 1 x 80", "--method Full --gpu-memory-gib 80", 1),
    ("LoRA on 1 x 80", "--method LoRA --gpu-memory-gib 80 --tokens-per-microbatch 8192 --checkpointing on", 0),
    ("LoRA on an H200", "--method LoRA --gpu-memory-gib 140.4 --tokens-per-microbatch 16384 --checkpointing off", 0),
    ("QLoRA on 24", "--method QLoRA --gpu-memory-gib 24 --tokens-per-microbatch 2048", 0),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "expected"), [row[1:] for row in KNOWN], ids=[row[0] for row in KNOWN])
def test_known_outcomes(config: Path, flags: str, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = _plan(config, flags, capsys)
    assert code == expected
    assert document["fits"] is (expected == 0)
    assert (document["suggestion"] is None) == document["fits"]
    assert (document["peakGiB"] <= document["limitGiB"]) == document["fits"]


def test_the_json_document(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--method LoRA --rank 8 --gpu-memory-gib 80 --tokens-per-microbatch 8192 --checkpointing on"
    _, document = _plan(config, flags, capsys)
    assert document == {
        "fits": True,
        "peakGiB": 20.95,
        "limitGiB": 72.0,
        "gpuMemoryGiB": 80.0,
        "gpus": 1,
        "method": "LoRA",
        "breakdown": {
            "weights": 14.96,
            "gradients": 0.0,
            "optimizer": 0.0,
            "adapter": 0.32,
            "activations": 3.35,
            "loss": 0.94,
            "context": 1.4,
            "initialisation": 0.0,
        },
        "hostGiB": 0.0,
        "chosen": {
            "zeroStage": 0,
            "microBatchTokens": 8192,
            "microBatchRows": 1,
            "accumulation": 1,
            "checkpointing": True,
            "offload": "none",
        },
        "suggestion": None,
    }


def test_the_text_shows_bars_and_what_to_do(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--method Full --gpus 2 --zero-stage 2 --gpu-memory-gib 80 --tokens-per-microbatch 4096"
    assert main(["--model", str(config), *flags.split()]) == 1
    text = capsys.readouterr().out
    assert "weights            14.96 GiB #######\n" in text
    assert f"peak               93.75 GiB {'#' * 40}+\n" in text
    assert "limit              72.00 GiB (90% of 80 GiB)\n" in text
    assert "or use 4 GPUs (63.8 GiB each)" in text


def test_what_is_left_out_is_chosen(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, document = _plan(config, "--gpu-memory-gib 24 --method QLoRA", capsys)
    assert document["chosen"]["microBatchRows"] * document["chosen"]["accumulation"] == 32
    assert document["chosen"]["microBatchTokens"] == 1024 * document["chosen"]["microBatchRows"]


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--gpu-memory-gib 0",
        "--gpu-memory-gib nan",
        "--gpu-memory-gib inf",
        "--gpu-memory-gib 80 --gpus 0",
        "--gpu-memory-gib 80 --gpus -1",
        "--gpu-memory-gib 80 --method DoRA",
        "--gpu-memory-gib 80 --zero-stage 4",
        "--gpu-memory-gib 80 --tokens-per-microbatch 4k",
    ],
)
def test_wrong_usage_exits_with_64(config: Path, flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(config), *flags.split()])
    assert ended.value.code == 64
    assert "finetune-trainer plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method LoRA --zero-stage 2", "LoRA has no ZeRO stage 2"),
        ("--method Full --zero-stage 0 --offload all", "needs ZeRO stage 3"),
        ("--method Full --rank 4", "an adapter has a rank, Full none"),
    ],
)
def test_settings_that_clash_exit_with_64(
    config: Path, flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(config), "--gpu-memory-gib", "80", *flags.split()]) == 64
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_model_exits_with_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for path in (tmp_path, tmp_path / "absent"):
        assert main(["--model", str(path), "--gpu-memory-gib", "80"]) == 64
        output = capsys.readouterr()
        assert not output.out
        assert output.err.endswith(".\n")
