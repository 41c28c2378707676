"""Operations, hours and their bounds against published figures and what an H200 did."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.contracts import GradientCheckpointing, Method
from finetune_trainer.planning.lengths import Lengths, measure
from finetune_trainer.planning.memory import Setup
from finetune_trainer.planning.time import (
    Efficiency,
    TimedRun,
    calibrated,
    estimate,
    evaluation_seconds,
    flops_per_token,
    mfu,
    prior,
    prior_mfu,
    startup_seconds,
    tokens_per_second,
)
from tests.unit.trainer_base.shapes import (
    LLAMA2_7B,
    LLAMA2_13B,
    LLAMA_1B,
    LLAMA_8B,
    QWEN25_7B,
    shape_by_config,
)

EIGHT = shape_by_config(LLAMA_8B)
LARGE = 10**9  # tokens per micro-batch at which its size no longer matters


@pytest.mark.parametrize(
    ("config", "method", "length", "gigaflops"),
    [(LLAMA_8B, "LoRA", 4096, 33.2), (LLAMA_8B, "Full", 4096, 48.2), (QWEN25_7B, "LoRA", 4096, 30.7)],
    ids=["8B LoRA", "8B Full", "Qwen2.5-7B LoRA"],
)
def test_operations_per_token_are_those_of_the_reference(
    config: dict[str, Any], method: Method, length: int, gigaflops: float
) -> None:
    assert flops_per_token(shape_by_config(config), method, length) / 1e9 == pytest.approx(
        gigaflops, rel=0.005
    )


@pytest.mark.parametrize(
    ("method", "checkpointing", "stage", "expected"),
    [
        ("LoRA", "Disabled", 0, 0.40),
        ("LoRA", "Enabled", 0, 0.27),
        ("LoRA", "Selective", 0, 0.27),
        ("QLoRA", "Enabled", 0, 0.25),
        ("Full", "Disabled", 2, 0.40),
        ("Full", "Enabled", 2, 0.30),
    ],
    ids=[
        "LoRA",
        "LoRA recomputing",
        "LoRA recomputing all but attention",
        "QLoRA",
        "Full",
        "Full recomputing",
    ],
)
def test_the_priors(
    method: Method, checkpointing: GradientCheckpointing, stage: int, expected: float
) -> None:
    rank = None if method == "Full" else 16
    setup = Setup(method, LARGE, rank, 8, zero_stage=stage, gradient_checkpointing=checkpointing)
    assert prior_mfu(setup) == pytest.approx(expected, abs=0.005)


def test_the_reference_s_share_of_zero_3_on_several_nodes_is_within_the_band() -> None:
    expected = prior(Setup("Full", LARGE, None, 8, 2, zero_stage=3, gradient_checkpointing="Disabled"))
    assert expected.mfu / expected.spread < 0.30 < expected.mfu * expected.spread


MEASURED = json.loads((Path(__file__).parents[3] / "benchmarks/results/gpu_training.json").read_text())
# The padded layout is the benchmark's comparison: the trainer packs on GPUs.
PACKED = [case for case in MEASURED["cases"] if case["layout"] is None and case["trainer"] == "ours"]
BENCHMARKED = {
    "llama-3.2-1b": shape_by_config(LLAMA_1B),
    "llama-3.1-8b": EIGHT,
    "llama-2-13b": shape_by_config(LLAMA2_13B),
}
H200 = 989.5


@pytest.mark.parametrize("case", PACKED, ids=[f"{c['name']} {c['allocator']}" for c in PACKED])
def test_a_measured_speed_lies_within_the_band(case: dict[str, Any]) -> None:
    setup = Setup(
        case["method"],
        case["micro_batch_tokens"],
        None if case["method"] == "Full" else 16,
        zero_stage=case["zero_stage"],
        offload=case["offload"],
        gradient_checkpointing=case["gradient_checkpointing"],
    )
    row = round(case["meanRowTokens"])
    lengths = measure([row] * (100_000_000 // row))
    run = TimedRun(BENCHMARKED[case["shape"]], setup.method, lengths, epochs=1, gpus=1, peak_tflops=H200)
    expected = estimate(run, prior(setup)).hours
    assert expected.low < lengths.tokens / case["tokensPerSecond"] / 3600 < expected.high


def test_the_best_published_run_of_lora_gives_its_published_mfu() -> None:
    # NeMo Automodel: Llama-3-8B LoRA on one H100, 4,096 tokens, 12,473 tokens/s, 402 TFLOP/s.
    assert mfu(12_473, EIGHT, "LoRA", 4096, 1, 989.5) == pytest.approx(0.42, abs=0.01)


def test_mfu_and_speed_are_inverse() -> None:
    speed = tokens_per_second(EIGHT, "LoRA", 700, 4, 312, 0.31)
    assert mfu(speed, EIGHT, "LoRA", 700, 4, 312) == pytest.approx(0.31)


def test_the_missions_run_takes_well_under_its_two_hours() -> None:
    # R35: 7B LoRA, 2,000 examples (of about 1,000 tokens, three epochs) in about 2 h on one A100.
    lengths = measure([1000] * 2000)
    setup = Setup("LoRA", 8000, 16, gradient_checkpointing="Enabled")
    run = TimedRun(shape_by_config(LLAMA2_7B), "LoRA", lengths, epochs=3, gpus=1, peak_tflops=312)
    time = estimate(run, prior(setup))
    assert time.tokens == 6_000_000
    assert time.hours.expected == pytest.approx(0.5, abs=0.1)
    assert time.hours.low < time.hours.expected < time.hours.high < 2


def test_finished_runs_replace_the_prior_and_three_narrow_the_bounds() -> None:
    assert calibrated(0.31, 3) == Efficiency(0.31, 1.2, "3 finished runs here")
    assert calibrated(0.3, 1) == Efficiency(0.3, 1.6, "1 finished run here")


def test_start_and_evaluation_take_time_too() -> None:
    assert startup_seconds(EIGHT) == pytest.approx(76, abs=1)
    assert evaluation_seconds(EIGHT, 0, 0, 0, 989.5) == 0
    assert evaluation_seconds(EIGHT, 150, 75_000, 15_000, 989.5) == pytest.approx(188, abs=2)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50))
def test_the_counts_of_rows(lengths: list[int]) -> None:
    counted = measure(lengths)
    assert counted == Lengths(
        len(lengths), sum(lengths), sum(length * length for length in lengths), max(lengths)
    )
    assert min(lengths) - 1e-6 <= counted.attended <= max(lengths) + 1e-6


def test_no_rows_have_no_length() -> None:
    assert measure([]).attended == 0


@given(st.floats(0.01, 1), st.integers(1, 16), st.integers(1, 16))
def test_more_gpus_are_never_slower_and_bounds_are_in_order(share: float, gpus: int, more: int) -> None:
    lengths, efficiency = measure([512] * 100), calibrated(share, 1)
    few, many = (
        estimate(TimedRun(EIGHT, "Full", lengths, 1, n, 989.5), efficiency).hours for n in (gpus, gpus + more)
    )
    assert many.expected < few.expected
    assert few.low <= few.expected <= few.high
