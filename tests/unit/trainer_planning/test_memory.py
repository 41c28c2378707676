"""Memory plans beside known outcomes (cost-and-memory.md 6.3) and peaks measured on an H200."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.base.shape import ModelShape, adapter_parameters
from finetune_trainer.contracts import GradientCheckpointing, Method
from finetune_trainer.errors import UserError
from finetune_trainer.planning.memory import (
    GIB,
    Setup,
    activation_bytes,
    checkpoint_bytes,
    fits,
    limit,
    predict,
)
from tests.unit.trainer_base.shapes import (
    LLAMA2_7B,
    LLAMA2_13B,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    QWEN25_1B,
    shape_by_config,
)

EIGHT, SEVEN, THIRTEEN = shape_by_config(LLAMA_8B), shape_by_config(LLAMA2_7B), shape_by_config(LLAMA2_13B)


def _full(gpus: int, stage: int, **more: Any) -> Setup:
    return Setup("Full", 4096, gpus_per_node=gpus, zero_stage=stage, **more)


# name, model, setup, card in GiB, predicted GB (10**9) of the table, does it fit
KNOWN = [
    ("8B Full ZeRO-2 on 4 x 80 GB", EIGHT, _full(4, 2), 80, 64 + 6, True),
    ("8B Full ZeRO-2 on 6 x 80 GB", EIGHT, _full(6, 2), 80, 54 + 6, True),
    ("8B Full ZeRO-2 on 2 x 80 GB", EIGHT, _full(2, 2), 80, 96 + 6, False),
    ("8B Full ZeRO-3 on 2 x 80 GB", EIGHT, _full(2, 3), 80, 2.1 + 72.3 + 4, False),
    ("8B Full ZeRO-2, optimizer offloaded, 2 x 40 GB", EIGHT, _full(2, 2, offload="Optimizer"), 40, 36, False),
    ("7B Full on 1 x 80 GB", SEVEN, _full(1, 0), 80, 121, False),
    ("8B LoRA on 1 x 80 GB, 8k tokens", EIGHT, Setup("LoRA", 8192, 16), 80, 23, True),
    ("8B LoRA on 1 x H200, 16k tokens, no checkpointing", EIGHT, Setup("LoRA", 16384, 16, gradient_checkpointing="Disabled"), 140.4, 112, True),
    ("13B QLoRA on 24 GB, 2k tokens", THIRTEEN, Setup("QLoRA", 2048, 16), 24, 11.6, True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "setup", "card", "gigabytes", "verdict"),
    [row[1:] for row in KNOWN],
    ids=[row[0] for row in KNOWN],
)
def test_known_outcomes(
    shape: ModelShape, setup: Setup, card: float, gigabytes: float, verdict: bool
) -> None:
    memory = predict(shape, setup)
    # "~36" of the offloaded row is what died, not a peak that was measured: ours is 15 % above.
    tolerance = 0.16 if setup.offload == "Optimizer" else 0.06
    assert memory.total / 1e9 == pytest.approx(gigabytes, rel=tolerance)
    assert fits(memory, card) is verdict


MEASURED = json.loads((Path(__file__).parents[3] / "benchmarks/results/gpu_training.json").read_text())
OURS = [case for case in MEASURED["cases"] if case["trainer"] == "ours"]
NAMES = [f"{case['name']} {case['allocator']}" for case in OURS]
BENCHMARKED = {"llama-3.2-1b": shape_by_config(LLAMA_1B), "llama-3.1-8b": EIGHT, "llama-2-13b": THIRTEEN}


@pytest.mark.parametrize("case", OURS, ids=NAMES)
def test_a_measured_peak_is_within_12_percent_of_the_plan(case: dict[str, Any]) -> None:
    measured = case["allocatedPeakGiB"]
    if case["compiled"]:  # it takes less, and is planned like a run that never compiles
        assert _planned_tensors(case) > measured
        return
    assert _planned_tensors(case) == pytest.approx(measured, rel=0.12)


@pytest.mark.parametrize("name", ["8b-lora-dense", "8b-lora-dense-sharded", "13b-qlora-24gib"])
def test_adapters_on_long_rows_are_planned_within_10_percent(name: str) -> None:
    (case,) = (case for case in OURS if case["name"] == name)
    assert _planned_tensors(case) == pytest.approx(case["allocatedPeakGiB"], rel=0.10)


def _planned_tensors(case: dict[str, Any]) -> float:
    """GiB of a benchmark's case without what CUDA itself takes."""
    setup = Setup(
        case["method"],
        case["micro_batch_tokens"],
        None if case["method"] == "Full" else 16,
        zero_stage=case["zero_stage"],
        offload=case["offload"],
        gradient_checkpointing=case["gradient_checkpointing"],
    )
    memory = predict(BENCHMARKED[case["shape"]], setup)
    return (memory.total - memory.context) / GIB


# What the reference's table says of the parts that do not depend on the micro-batch, in GB (10**9).
STATE = [
    ("8B Full ZeRO-2 on 4", EIGHT, _full(4, 2), 64),
    ("8B Full ZeRO-2 on 6", EIGHT, _full(6, 2), 54),
    ("8B Full ZeRO-2 on 2", EIGHT, _full(2, 2), 96),
    ("8B Full ZeRO-3 on 2", EIGHT, _full(2, 3), 74.4),
    ("7B Full on 1", SEVEN, _full(1, 0), 121),
    ("8B LoRA", EIGHT, Setup("LoRA", 8192, 16), 16.8),
    ("13B QLoRA", THIRTEEN, Setup("QLoRA", 2048, 16), 8.4),
]


@pytest.mark.parametrize(
    ("shape", "setup", "gigabytes"), [row[1:] for row in STATE], ids=[row[0] for row in STATE]
)
def test_weights_gradients_and_optimizer_are_the_reference_s(
    shape: ModelShape, setup: Setup, gigabytes: float
) -> None:
    memory = predict(shape, setup)
    state = memory.weights + memory.gradients + memory.optimizer + memory.adapter + memory.initialisation
    assert state / 1e9 == pytest.approx(gigabytes, abs=1 if setup.method == "Full" else 0.6)


@pytest.mark.parametrize("tokens", [256, 1024, 4096], ids="{} tokens".format)
def test_the_flat_copy_of_the_weights_does_not_depend_on_the_micro_batch(tokens: int) -> None:
    setup = Setup("Full", tokens, gpus_per_node=2, zero_stage=2, offload="Optimizer")
    memory = predict(EIGHT, setup)
    assert memory.initialisation > 0
    assert not fits(memory, 40)
    resident = predict(EIGHT, replace(setup, offload="None")).host
    assert memory.host - resident == pytest.approx(1.5 * 16 * EIGHT.parameters)


@pytest.mark.parametrize(
    ("checkpointing", "per_token"),
    [
        ("Enabled", 262_144 + 176_128),
        ("Selective", 262_144 + 32 * (2 * 4096 + 4 * 32) + 176_128),
        ("Disabled", 5_636_096),
    ],
    ids=["layer inputs and one layer", "attention's outputs too", "everything kept"],
)
def test_activations_of_the_8b_model(checkpointing: GradientCheckpointing, per_token: int) -> None:
    assert activation_bytes(EIGHT, 10, checkpointing) == 10 * per_token


@pytest.mark.parametrize(
    ("rank", "gigabytes"), [(None, 112.4), (16, 0.503)], ids=["8B Full", "an adapter of rank 16 for 8B"]
)
def test_a_checkpoint_holds_what_is_trained_and_its_optimizer_state(
    rank: int | None, gigabytes: float
) -> None:
    trained = EIGHT.parameters if rank is None else adapter_parameters(EIGHT, rank)
    assert checkpoint_bytes(trained, full=rank is None) / 1e9 == pytest.approx(gigabytes, rel=0.001)


def test_a_plan_may_use_nine_tenths_of_the_card() -> None:
    assert limit(80) == pytest.approx(72 * GIB)


def test_a_host_that_is_too_small_for_what_is_offloaded_does_not_fit() -> None:
    memory = predict(EIGHT, _full(2, 3, offload="All"))
    assert fits(memory, 80)
    assert fits(memory, 80, host_memory_gib=300)
    assert not fits(memory, 80, host_memory_gib=200)


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (Setup("QLoRA", 1, 16, zero_stage=1), "QLoRA has no ZeRO stage 1; use 0, or 3 to share the base"),
        (Setup("LoRA", 1, 16, zero_stage=2), "LoRA has no ZeRO stage 2"),
        (Setup("LoRA", 1), "rank None"),
        (Setup("Full", 1, 16), "rank 16"),
        (Setup("LoRA", 1, 16, offload="Optimizer"), "too little optimizer state"),
        (Setup("Full", 1, offload="Optimizer"), "needs ZeRO stage 1, 2 or 3"),
        (Setup("Full", 1, zero_stage=2, offload="All"), "needs ZeRO stage 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_libraries_cannot_run_is_refused(setup: Setup, message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict(EIGHT, setup)


SEVENTY = shape_by_config(LLAMA_70B)
SHARED = [
    ("LoRA", 4 * 128256 * 8192 + 2 * SEVENTY.parameters / 8 + 18 * 207_093_760 / 8),
    ("Full", 4 * 128256 * 8192 + 18 * SEVENTY.parameters / 8),
]


@pytest.mark.parametrize(("method", "size"), SHARED, ids=[row[0] for row in SHARED])
def test_gpus_share_weights_and_state_with_zero_3(method: Method, size: float) -> None:
    """cost-and-memory.md 6.2: LoRA 4*P_lay + 2P/n + 18T/n, Full 4*P_lay + 18P/n."""
    setup = Setup(method, 1024, None if method == "Full" else 16, gpus_per_node=8, zero_stage=3)
    memory = predict(SEVENTY, setup)
    state = memory.weights + memory.gradients + memory.optimizer + memory.adapter
    assert state == pytest.approx(size)
    assert memory.initialisation == 0


def test_a_quantised_base_is_loaded_whole_before_it_is_shared() -> None:
    """transformers opens no zero.Init for quantised weights: every GPU holds them once."""
    memory = predict(SEVENTY, Setup("QLoRA", 1024, 16, gpus_per_node=8, zero_stage=3))
    whole = 0.516 * SEVENTY.quantised + 2 * (SEVENTY.parameters - SEVENTY.quantised)
    assert memory.total >= whole
    assert memory.weights < whole


def test_other_parts_of_a_multimodal_model_are_loaded_and_not_trained() -> None:
    seeing = replace(EIGHT, beside=10**9)
    for setup, bytes_each in ((Setup("LoRA", 1, 16), 2.0), (_full(4, 2), 2.0), (_full(4, 3), 2 / 4)):
        more = predict(seeing, setup).total - predict(EIGHT, setup).total
        assert more == pytest.approx(bytes_each * 10**9)


def test_chosen_layers_take_less() -> None:
    all_layers, two = (Setup("LoRA", 1, 64, target_modules=names) for names in (None, ("q_proj", "v_proj")))
    assert predict(EIGHT, two).adapter == 16 * 64 * 32 * (2 * 4096 + 4096 + 1024)
    assert predict(EIGHT, two).adapter < predict(EIGHT, all_layers).adapter


def test_each_process_takes_host_memory_for_itself_and_for_one_weight_at_a_time() -> None:
    one, eight = (predict(SEVENTY, Setup("LoRA", 1, 16, gpus_per_node=n, zero_stage=3)).host for n in (1, 8))
    assert eight == 8 * one
    assert one < 2 * SEVENTY.parameters / 10


SHAPES = st.sampled_from([shape_by_config(config) for config in (LLAMA_8B, LLAMA_1B, QWEN25_1B, LLAMA2_13B)])


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    method = draw(st.sampled_from(["LoRA", "QLoRA", "Full"]))
    stage = draw(st.sampled_from([0, 1, 2, 3] if method == "Full" else [0, 3]))
    offloads = ["None"]
    if method == "Full" and stage:
        offloads += ["Optimizer"] + (["All"] if stage == 3 else [])
    return Setup(
        method,  # type: ignore[arg-type]
        draw(st.integers(1, 32768)),
        None if method == "Full" else draw(st.integers(1, 256)),
        gpus_per_node=draw(st.integers(1, 8)),
        nodes=draw(st.integers(1, 4)),
        zero_stage=stage,
        offload=draw(st.sampled_from(offloads)),  # type: ignore[arg-type]
        gradient_checkpointing=draw(st.sampled_from(["Enabled", "Selective", "Disabled"])),  # type: ignore[arg-type]
    )


@settings(max_examples=200, deadline=None)
@given(SHAPES, setups(), st.integers(1, 8), st.integers(1, 8))
def test_more_gpus_never_need_more_memory_each(
    shape: ModelShape, setup: Setup, more: int, nodes: int
) -> None:
    larger = replace(setup, gpus_per_node=setup.gpus_per_node + more, nodes=setup.nodes + nodes)
    assert predict(shape, larger).total <= predict(shape, setup).total * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(SHAPES, setups(), st.integers(1, 32768))
def test_more_tokens_or_kept_activations_never_need_less(shape: ModelShape, setup: Setup, more: int) -> None:
    least, some, most = (
        predict(shape, replace(setup, gradient_checkpointing=kept)).total
        for kept in ("Enabled", "Selective", "Disabled")
    )
    assert least <= some <= most
    longer = replace(setup, tokens=setup.tokens + more)
    assert predict(shape, setup).total <= predict(shape, longer).total * (1 + 1e-12)


@settings(max_examples=100, deadline=None)
@given(SHAPES, setups())
def test_the_parts_are_never_negative_and_add_up(shape: ModelShape, setup: Setup) -> None:
    memory = predict(shape, setup)
    assert all(part >= 0 for part in memory.parts().values())
    assert sum(memory.parts().values()) == memory.total
