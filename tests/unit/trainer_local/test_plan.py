"""`python -m finetune_trainer plan` as a user types it: exit codes, the JSON that stays stable, the text."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.__main__ import main
from tests.unit.trainer_base import shapes

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config.json of an 8B model."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(shapes.LLAMA_8B))
    return path


def plan(*arguments: str) -> int:
    try:
        return main(["plan", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


def planned(config: Path, flags: str, capsys: Capture) -> tuple[int, dict[str, Any]]:
    code = plan("--model", str(config), *flags.split(), "--output", "json")
    return code, json.loads(capsys.readouterr().out)


KNOWN = [
    ("Full on 4 x 80", "--method Full --gpus 4 --zero-stage 2 --gpu-memory-gib 80 --tokens-per-microbatch 4096", 0),
    ("Full on 2 x 80", "--method Full --gpus 2 --zero-stage 2 --gpu-memory-gib 80 --tokens-per-microbatch 4096", 1),
    ("ZeRO-3 on 2 x 80", "--method Full --gpus 2 --zero-stage 3 --gpu-memory-gib 80", 1),
    ("no offload unless it is asked for", "--method Full --gpus 2 --gpu-memory-gib 80", 1),
    ("offloaded on 2 x 80", "--method Full --gpus 2 --offload Optimizer --gpu-memory-gib 80", 0),
    ("offloaded on 2 x 40", "--method Full --gpus 2 --zero-stage 2 --offload Optimizer --gpu-memory-gib 40", 1),
    ("Full on 1 x 80", "--method Full --gpu-memory-gib 80", 1),
    ("LoRA on 1 x 80", "--method LoRA --gpu-memory-gib 80 --tokens-per-microbatch 8192 --gradient-checkpointing Enabled", 0),
    ("LoRA on an H200", "--method LoRA --gpu-memory-gib 140.4 --tokens-per-microbatch 16384 --gradient-checkpointing Disabled", 0),
    ("QLoRA on 24", "--method QLoRA --gpu-memory-gib 24 --tokens-per-microbatch 2048", 0),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "expected"), [row[1:] for row in KNOWN], ids=[row[0] for row in KNOWN])
def test_known_outcomes(config: Path, flags: str, expected: int, capsys: Capture) -> None:
    code, document = planned(config, flags, capsys)
    assert code == expected
    assert document["fits"] is (expected == 0)
    assert (document["suggestion"] is None) == document["fits"]
    assert (document["peakGiB"] <= document["limitGiB"]) == document["fits"]


def test_the_json_document(config: Path, capsys: Capture) -> None:
    flags = "--method LoRA --rank 8 --gpu-memory-gib 80 --tokens-per-microbatch 8192 --gradient-checkpointing Enabled"
    _, document = planned(config, flags, capsys)
    assert document == {
        "fits": True,
        "tight": False,
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
        "hostGiB": 3.78,
        "chosen": {
            "zeroStage": 0,
            "microBatchTokens": 8192,
            "gradientCheckpointing": "Enabled",
            "offload": "None",
        },
        "suggestion": None,
        "estimate": None,
    }


def test_what_is_left_out_is_chosen(config: Path, capsys: Capture) -> None:
    code, document = planned(config.parent, "--gpu-memory-gib 80", capsys)
    assert code == 0
    assert document["peakGiB"] == pytest.approx(sum(document["breakdown"].values()), abs=0.05)
    chosen = {
        "zeroStage": 0,
        "microBatchTokens": 8192,
        "gradientCheckpointing": "Disabled",
        "offload": "None",
    }
    assert (document["method"], document["chosen"]) == ("LoRA", chosen)


def test_time_and_cost_come_with_the_tokens(config: Path, capsys: Capture) -> None:
    training = "--gpu-memory-gib 80 --train-tokens 6000000 --gpu-peak-tflops 312"
    _, document = planned(config, f"{training} --price-per-hour 2.5", capsys)
    estimate = document["estimate"]
    assert set(estimate) == {"tokens", "mfu", "hours", "hoursLow", "hoursHigh", "cost", "costLow", "costHigh"}
    assert estimate["hoursLow"] < estimate["hours"] < estimate["hoursHigh"] < 2
    assert estimate["cost"] == pytest.approx(estimate["hours"] * 2.5, abs=0.01)
    assert estimate["costLow"] < estimate["cost"] < estimate["costHigh"] < 20
    assert plan("--model", str(config), *training.split()) == 0
    text = capsys.readouterr().out
    assert "LoRA on 1 GPU: ZeRO stage 0" in text
    assert f"{estimate['hours']:.2f} h ({estimate['hoursLow']:.2f} to" in text
    assert "for all GPUs" not in text
    plan("--model", str(config), *training.split(), "--price-per-hour", "2.5")
    assert f"{estimate['cost']:.2f} ({estimate['costLow']:.2f} to" in capsys.readouterr().out


def test_without_a_price_there_is_no_cost(config: Path, capsys: Capture) -> None:
    flags = "--gpu-memory-gib 80 --train-tokens 6000000 --gpu-peak-tflops 312"
    estimate = planned(config, flags, capsys)[1]["estimate"]
    assert (estimate["cost"], estimate["costLow"], estimate["costHigh"]) == (None, None, None)


def test_an_adapter_that_prepare_would_refuse_is_refused(config: Path, capsys: Capture) -> None:
    config.write_text(json.dumps({**shapes.LLAMA_8B, "architectures": ["BloomForCausalLM"]}))
    for method in ("LoRA", "QLoRA"):
        assert plan("--model", str(config), "--method", method, "--gpu-memory-gib", "80") == 64
        assert (
            "serves no adapter on its own BloomForCausalLM class; use method Full" in capsys.readouterr().err
        )
    assert plan("--model", str(config), "--method", "Full", "--gpu-memory-gib", "640") == 0


def test_a_model_that_does_not_fit_ends_with_1_and_a_way_out(config: Path, capsys: Capture) -> None:
    flags = "--method Full --gpus 2 --zero-stage 2 --gpu-memory-gib 80 --tokens-per-microbatch 4096"
    assert plan("--model", str(config), *flags.split()) == 1
    text = capsys.readouterr().out
    assert "weights            14.96 GiB #######\n" in text
    assert f"peak               93.75 GiB {'#' * 40}+\n" in text
    assert "limit              72.00 GiB (90% of 80 GiB)\n" in text
    assert "Full on 2 GPUs: ZeRO stage 2" in text
    assert "It does not fit." in text
    assert "or set resources.gpuType: h200 (" in text


def test_what_is_kept_on_the_host_is_shown(config: Path, capsys: Capture) -> None:
    flags = "--method Full --gpus 2 --offload Optimizer --gpu-memory-gib 80"
    assert plan("--model", str(config), *flags.split()) == 0
    text = capsys.readouterr().out
    assert "each host         187.04 GiB\n" in text
    assert text.endswith("It fits.\n")


WRONG = [
    ("no model", "--gpu-memory-gib 80", "--model"),
    ("no memory", "--model {config}", "--gpu-memory-gib"),
    ("no such file", "--model absent.json --gpu-memory-gib 80", "absent.json"),
    ("memory below 0", "--model {config} --gpu-memory-gib -1", "above 0"),
    ("memory that is no number", "--model {config} --gpu-memory-gib nan", "above 0"),
    ("memory without end", "--model {config} --gpu-memory-gib inf", "above 0"),
    ("no GPU", "--model {config} --gpu-memory-gib 80 --gpus 0", "above 0"),
    ("tokens as a word", "--model {config} --gpu-memory-gib 80 --tokens-per-microbatch 4k", "4k"),
    ("time without a peak", "--model {config} --gpu-memory-gib 80 --train-tokens 9", "--gpu-peak-tflops"),
    ("a price without tokens", "--model {config} --gpu-memory-gib 80 --price-per-hour 9", "--train-tokens"),
    ("a table without a name", "--model {config} --gpu-memory-gib 80 --gpu-types t.yaml", "--gpu-types needs --gpu NAME"),
    ("a table that is not there", "--model {config} --gpu h200 --gpu-types t.yaml", "t.yaml cannot be read"),
    ("no such method", "--model {config} --gpu-memory-gib 80 --method Half", "Half"),
    ("no such stage", "--model {config} --gpu-memory-gib 80 --zero-stage 4", "--zero-stage"),
    ("LoRA sharded", "--model {config} --gpu-memory-gib 80 --zero-stage 2", "use 0, or 3 to share the base among the GPUs"),
    ("LoRA offloaded", "--model {config} --gpu-memory-gib 80 --offload All", "too little optimizer state"),
    ("Full with a rank", "--model {config} --gpu-memory-gib 80 --method Full --rank 4", "Full none"),
    ("offload of a stage that cannot", "--model {config} --gpu-memory-gib 80 --method Full --zero-stage 2 --offload All", "ZeRO stage 3"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "says"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_question_ends_with_64_and_names_what_is_wrong(
    config: Path, flags: str, says: str, capsys: Capture
) -> None:
    assert plan(*flags.format(config=config).split()) == 64
    output = capsys.readouterr()
    assert not output.out
    assert says in output.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1, 2", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"model_type": "t5"}', "(t5) cannot be loaded for text"),
    ],
    ids=["cut", "a list", "another kind of model"],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, content: str, says: str, capsys: Capture
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert plan("--model", str(tmp_path), "--gpu-memory-gib", "80") == 64
    assert says in capsys.readouterr().err
