"""Time and cost: the reference's roofs, what an H200 did, and what must always hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.planning.estimate import Gpu, estimate, flops_per_token
from finetune_trainer.planning.memory import Setup
from finetune_trainer.planning.shape import ModelShape

LLAMA_8B = ModelShape(128256, 4096, 14336, 32, 32, 8, 128, tied=False)
LLAMA_1B = ModelShape(128256, 2048, 8192, 16, 32, 8, 64, tied=True)
MEASURED = json.loads((Path(__file__).parents[3] / "benchmarks/results/gpu_training.json").read_text())[
    "cases"
]
# The padded layout is the benchmark's comparison, and one GPU gains nothing from ZeRO-3 or offload.
USUAL = [case for case in MEASURED if case["layout"] is None and case["zero_stage"] < 3]
H200 = 989.5


@pytest.mark.parametrize(("method", "gigaflops"), [("LoRA", 33.2), ("Full", 48.2)], ids=["LoRA", "Full"])
def test_a_token_of_a_row_of_4096_takes_what_the_reference_says(method: str, gigaflops: float) -> None:
    assert flops_per_token(LLAMA_8B, method, 4096) / 1e9 == pytest.approx(gigaflops, rel=0.005)


@pytest.mark.parametrize("case", USUAL, ids=[f"{c['name']} {c['allocator']}" for c in USUAL])
def test_a_measured_speed_lies_within_the_band(case: dict[str, Any]) -> None:
    shape = {"llama-3.2-1b": LLAMA_1B, "llama-3.1-8b": LLAMA_8B}[case["shape"]]
    setup = Setup(
        case["method"], 1, case["micro_batch_tokens"], case["checkpointing"], 16, case["zero_stage"]
    )
    tokens = 100_000_000
    expected = estimate(shape, setup, Gpu(H200), tokens, round(case["meanRowTokens"]))
    hours = tokens / case["tokensPerSecond"] / 3600
    assert expected.hours_low < hours < expected.hours_high


def test_the_missions_7b_lora_costs_less_than_the_mission_says_it_did() -> None:
    """2,000 rows of 1,000 tokens, three epochs, one A100 (R35: about 2 h; R48: $5-20)."""
    expected = estimate(LLAMA_8B, Setup("LoRA", 1, 8192, checkpointing=False), Gpu(312, 2.5), 6_000_000, 1000)
    assert expected.hours_high < 2
    assert (expected.to_json()["costHigh"] or 0) < 20


SETUPS = st.builds(
    Setup,
    method=st.sampled_from(["LoRA", "QLoRA", "Full"]),
    gpus=st.sampled_from([1, 2, 8]),
    tokens=st.just(4096),
    checkpointing=st.booleans(),
)


@given(SETUPS, st.integers(1, 10**9), st.integers(1, 8192))
def test_more_tokens_never_take_less_and_the_band_surrounds_the_expected(
    setup: Setup, tokens: int, row: int
) -> None:
    one = estimate(LLAMA_8B, setup, Gpu(312, 2.0), tokens, row)
    more = estimate(LLAMA_8B, setup, Gpu(312, 2.0), tokens + 1000, row)
    assert one.hours_low <= one.hours <= one.hours_high
    assert one.hours <= more.hours


@given(SETUPS, st.integers(1, 10**9))
def test_without_a_price_there_is_no_cost(setup: Setup, tokens: int) -> None:
    document = estimate(LLAMA_8B, setup, Gpu(312), tokens, 100).to_json()
    assert (document["cost"], document["costLow"], document["costHigh"]) == (None, None, None)
