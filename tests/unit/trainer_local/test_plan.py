"""`python -m finetune_trainer plan` as a user types it."""

import json
from pathlib import Path

import pytest

from finetune_trainer.__main__ import main

CONFIG = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def plan(*arguments: str) -> int:
    try:
        return main(["plan", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


def test_a_model_that_fits_ends_with_0_and_says_how(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--model", str(config.parent), "--gpu-memory-gib", "80", "--output", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fits"] is True
    assert document["peakGiB"] == pytest.approx(sum(document["breakdown"].values()), abs=0.05)
    assert document["chosen"]["checkpointing"] is False
    assert (document["suggestion"], document["estimate"]) == (None, None)


def test_time_and_cost_come_with_the_tokens(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = ("--train-tokens", "6000000", "--gpu-peak-tflops", "312", "--price-per-hour", "2.5")
    arguments = ("--model", str(config), "--gpu-memory-gib", "80", *training)
    assert plan(*arguments, "--output", "json") == 0
    estimate = json.loads(capsys.readouterr().out)["estimate"]
    assert estimate["cost"] == pytest.approx(estimate["hours"] * 2.5, abs=0.01)
    assert estimate["costLow"] < estimate["cost"] < estimate["costHigh"]
    assert plan(*arguments) == 0
    assert f"{estimate['hours']:.2f} h" in capsys.readouterr().out


def test_a_model_that_does_not_fit_ends_with_1_and_a_way_out(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--method", "Full", "--gpus", "2", "--zero-stage", "2", "--tokens-per-microbatch", "4096")
    assert plan("--model", str(config), "--gpu-memory-gib", "80", *arguments) == 1
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "Use 4 GPUs" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--gpu-memory-gib", "80"), "--model"),
        (("--model", "absent.json", "--gpu-memory-gib", "80"), "absent.json"),
        (("--model", "{config}", "--gpu-memory-gib", "-1"), "above 0"),
        (("--model", "{config}", "--gpu-memory-gib", "80", "--gpus", "0"), "1 or more"),
        (("--model", "{config}", "--gpu-memory-gib", "80", "--train-tokens", "9"), "--gpu-peak-tflops"),
        (("--model", "{config}", "--gpu-memory-gib", "80", "--price-per-hour", "9"), "--train-tokens"),
        (("--model", "{config}", "--gpu-memory-gib", "80", "--method", "Half"), "Half"),
        (("--model", "{config}", "--gpu-memory-gib", "80", "--zero-stage", "2"), "--method Full"),
        (("--model", "{config}", "--gpu-memory-gib", "80", "--method", "Full", "--zero-stage", "2", "--offload", "all"), "--zero-stage 3"),
    ],
    ids=["no model", "no such file", "no memory", "no GPU", "time without a peak", "a price without tokens", "no such method", "LoRA sharded", "offload of a stage that cannot"],
)  # fmt: skip
def test_a_wrong_question_ends_with_64_and_names_what_is_wrong(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert plan(*(argument.format(config=config) for argument in arguments)) == 64
    assert says in capsys.readouterr().err


def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "config.json"
    broken.write_text("[1, 2")
    assert plan("--model", str(broken), "--gpu-memory-gib", "80") == 64
    assert "is not JSON" in capsys.readouterr().err
