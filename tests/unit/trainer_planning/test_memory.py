"""Memory plans beside known outcomes: the reference's check table and peaks measured on an H200."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from finetune_trainer.errors import UserError
from finetune_trainer.planning.choose import Request, choose
from finetune_trainer.planning.memory import GIB, USABLE, Memory, Setup, memory
from finetune_trainer.planning.shape import ModelShape, shape_of

LLAMA_8B = ModelShape(128256, 4096, 14336, 32, 32, 8, 128, tied=False)
LLAMA_7B = ModelShape(32000, 4096, 11008, 32, 32, 32, 128, tied=False)
LLAMA_13B = ModelShape(32000, 5120, 13824, 40, 40, 40, 128, tied=False)
LLAMA_1B = ModelShape(128256, 2048, 8192, 16, 32, 8, 64, tied=True)
MEASURED = json.loads((Path(__file__).parents[3] / "benchmarks/results/gpu_training.json").read_text())[
    "cases"
]
GB = 1e9


def fits(needed: Memory, card_gb: float) -> bool:
    return needed.total <= USABLE * card_gb * GB


def full(gpus: int, **layout: Any) -> Setup:
    return Setup("Full", gpus, 4096, checkpointing=True, **layout)


# The reference's table (cost-and-memory.md 6.3), in GB of 10^9 bytes; its figures for Full leave activations,
# loss and context out.
CHECK_TABLE: list[tuple[str, ModelShape, Setup, float, float, float, bool]] = [
    ("8B full Z2 on 4 x 80 GB", LLAMA_8B, full(4, zero_stage=2), 64, 1, 80, True),
    ("8B full Z2 on 6 x 80 GB", LLAMA_8B, full(6, zero_stage=2), 54, 1, 80, True),
    ("8B full Z2 on 2 x 80 GB", LLAMA_8B, full(2, zero_stage=2), 96, 1, 80, False),
    ("8B full Z3 on 2 x 80 GB", LLAMA_8B, full(2, zero_stage=3), 74.4, 1, 80, False),
    ("8B full Z2, optimizer offloaded, on 2 x 40 GB", LLAMA_8B, full(2, zero_stage=2, offload="optimizer"), 32, 1, 40, False),
    ("7B full on 1 x 80 GB", LLAMA_7B, full(1), 121, 1, 80, False),
    ("8B LoRA, 8k tokens, recomputed, on 1 x 80 GB", LLAMA_8B, Setup("LoRA", 1, 8192, checkpointing=True), 16.8, 0.2, 80, True),
    ("8B LoRA, 16k tokens, kept, on 1 x 141 GB", LLAMA_8B, Setup("LoRA", 1, 16384, checkpointing=False), 16.8, 0.2, 141, True),
    ("13B QLoRA, 2k tokens, on 24 GB", LLAMA_13B, Setup("QLoRA", 1, 2048, checkpointing=True), 8.4, 0.6, 24, True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "setup", "predicted", "tolerance", "card", "verdict"),
    [row[1:] for row in CHECK_TABLE],
    ids=[row[0] for row in CHECK_TABLE],
)
def test_the_check_table_comes_out(
    shape: ModelShape, setup: Setup, predicted: float, tolerance: float, card: float, verdict: bool
) -> None:
    needed = memory(shape, setup)
    assert (needed.base + needed.state + needed.spike) / GB == pytest.approx(predicted, abs=tolerance)
    assert fits(needed, card) is verdict


@pytest.mark.parametrize("case", MEASURED, ids=[f"{c['name']} {c['allocator']}" for c in MEASURED])
def test_a_measured_peak_is_within_12_percent_of_the_plan(case: dict[str, Any]) -> None:
    shape = {"llama-3.2-1b": LLAMA_1B, "llama-3.1-8b": LLAMA_8B}[case["shape"]]
    setup = Setup(
        case["method"],
        1,
        case["micro_batch_tokens"],
        case["checkpointing"],
        16,
        case["zero_stage"],
        case["offload"],
    )
    needed = memory(shape, setup)
    of_tensors = (needed.total - needed.context) / GIB
    assert of_tensors == pytest.approx(case["allocatedPeakGiB"], rel=0.12)


def test_an_8b_has_the_parameters_that_are_published() -> None:
    assert LLAMA_8B.parameters == 8_030_261_248
    assert LLAMA_8B.adapter_parameters(16) == 41_943_040
    assert LLAMA_8B.multiplied_parameters == pytest.approx(7.505e9, rel=0.001)


SHAPES = st.sampled_from([LLAMA_1B, LLAMA_7B, LLAMA_8B, LLAMA_13B])
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["LoRA", "QLoRA", "Full"]),
    gpus=st.sampled_from([1, 2, 4, 8]),
    gpu_gib=st.sampled_from([16.0, 24.0, 40.0, 80.0, 141.0]),
    longest=st.integers(16, 16384),
    tokens=st.none() | st.sampled_from([1024, 4096, 16384]),
    checkpointing=st.none() | st.booleans(),
)


@given(SHAPES, REQUESTS)
def test_what_is_given_is_kept(shape: ModelShape, request: Request) -> None:
    setup = choose(shape, request).setup
    assert request.tokens in (None, setup.tokens)
    assert request.checkpointing in (None, setup.checkpointing)
    assert (setup.method, setup.gpus) == (request.method, request.gpus)


@given(SHAPES, REQUESTS)
def test_a_plan_that_fits_stays_below_90_percent_and_one_that_does_not_says_what_to_do(
    shape: ModelShape, request: Request
) -> None:
    plan = choose(shape, request)
    assert plan.fits == (plan.needed.total <= 0.9 * request.gpu_gib * GIB)
    assert (plan.suggestion is None) == plan.fits


@given(SHAPES, st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, 1, 2, 3]), st.integers(16, 32768))
def test_more_gpus_never_need_more_and_more_tokens_never_less(
    shape: ModelShape, gpus: int, stage: int, tokens: int
) -> None:
    assume(not (stage == 1 and gpus == 1))
    few = memory(shape, Setup("Full", gpus, tokens, checkpointing=False, zero_stage=stage)).total
    many = memory(shape, Setup("Full", 2 * gpus, tokens, checkpointing=False, zero_stage=stage)).total
    longer = memory(shape, Setup("Full", gpus, tokens + 1, checkpointing=False, zero_stage=stage)).total
    assert many <= few < longer


def test_activations_are_kept_where_they_fit_and_recomputed_where_they_do_not() -> None:
    assert not choose(LLAMA_8B, Request("LoRA", 1, 80)).setup.checkpointing
    assert choose(LLAMA_8B, Request("LoRA", 1, 24)).setup.checkpointing


def test_the_suggestion_names_the_cheapest_change() -> None:
    refused = choose(LLAMA_8B, Request("Full", 2, 80, zero_stage=2))
    assert not refused.fits
    assert refused.suggestion == "Use 4 GPUs; each GPU then needs 68.8 of 80 GiB."
    assert choose(LLAMA_8B, Request("Full", 4, 80, offload="none")).needed.total / GIB == pytest.approx(
        68.8, abs=0.05
    )
    kept = choose(LLAMA_8B, Request("LoRA", 1, 24, tokens=8192, checkpointing=False))
    assert (kept.suggestion or "").startswith("Recompute activations")


CONFIG = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip


def test_a_shape_is_read_from_a_configuration() -> None:
    assert shape_of(CONFIG) == LLAMA_8B
    assert shape_of({"model_type": "gemma3", "text_config": {**CONFIG, "model_type": "gemma3_text"}}).tied


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "32"}, "num_hidden_layers"),
    ],
    ids=["a mixture of experts", "a missing number", "a number as text"],
)
def test_what_cannot_be_planned_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        shape_of({**CONFIG, **change})
