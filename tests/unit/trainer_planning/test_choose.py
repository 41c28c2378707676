"""What a plan chooses, what it refuses, and that its advice helps."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_trainer.contracts import Spec
from finetune_trainer.errors import UserError
from finetune_trainer.planning.choose import MemoryPlan, NoFit, choose, choose_method, suggest
from finetune_trainer.planning.layouts import Fixed, Gpu, Workload, fastest
from finetune_trainer.planning.memory import GIB, fits
from tests.unit.trainer_base.shapes import (
    LLAMA2_13B,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    QWEN25_1B,
    shape_by_config,
)

EIGHT, SEVENTY = shape_by_config(LLAMA_8B), shape_by_config(LLAMA_70B)
CARD = Gpu(80)


def _request(settings: Fixed, gpus: int = 1, gpu: Gpu = CARD, **more: Any) -> Workload:
    given = {"shape": EIGHT, "longest": 4096, "gpus_per_node": gpus, **more}
    return Workload(fixed=settings, gpu=gpu, **given)


def _chosen(request: Workload) -> dict[str, Any]:
    plan = choose(request)
    assert isinstance(plan, MemoryPlan)
    return dict(plan.document()["chosen"])


CHOICES = [
    ("short rows of LoRA keep their activations, all in one micro-batch",
     _request(Fixed("LoRA", 16), longest=512, rows=16),
     {"zeroStage": 0, "gradientCheckpointing": "Disabled", "microBatchTokens": 8192, "offload": "None"}),
    ("no micro-batch is larger than what there is to do", _request(Fixed("LoRA", 16), longest=100, rows=8),
     {"gradientCheckpointing": "Disabled", "microBatchTokens": 800}),
    ("with long rows smaller micro-batches are cheaper than recomputing",
     _request(Fixed("LoRA", 16), longest=4096, rows=8), {"gradientCheckpointing": "Disabled", "microBatchTokens": 8192}),
    ("a row that only fits recomputed is recomputed", _request(Fixed("LoRA", 16), longest=16384),
     {"gradientCheckpointing": "Enabled", "microBatchTokens": 16384, "zeroStage": 0}),
    ("a row longer than any micro-batch that is tried", _request(Fixed("LoRA", 16), longest=20000),
     {"gradientCheckpointing": "Enabled", "microBatchTokens": 20000}),
    ("a base that fits is not shared", _request(Fixed("LoRA", 16), gpus=4, rows=4), {"zeroStage": 0}),
    ("a base that does not fit is shared", _request(Fixed("LoRA", 16), gpus=8, shape=SEVENTY), {"zeroStage": 3}),
    ("selective gradient checkpointing is taken when it is asked for",
     _request(Fixed("LoRA", 16, gradient_checkpointing="Selective")), {"gradientCheckpointing": "Selective"}),
    ("one GPU trains 1B with all weights", replace(_request(Fixed("Full")), shape=shape_by_config(LLAMA_1B)), {"zeroStage": 2}),
    ("four GPUs train 8B with all weights: recomputing is cheaper than gathering",
     _request(Fixed("Full"), gpus=4, rows=4), {"zeroStage": 2, "offload": "None", "gradientCheckpointing": "Enabled"}),
    ("three GPUs gather", _request(Fixed("Full"), gpus=3, rows=3, longest=1024), {"zeroStage": 3, "offload": "None"}),
    ("two GPUs need the host's memory", _request(Fixed("Full"), gpus=2, rows=8), {"offload": "Optimizer", "zeroStage": 2}),
    ("stages 0 and 1 are taken when they are asked for", _request(Fixed("Full", zero_stage=1), gpus=4), {"zeroStage": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "expected"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES]
)
def test_choices(request_: Workload, expected: dict[str, Any]) -> None:
    chosen = _chosen(request_)
    assert {name: chosen[name] for name in expected} == expected


def test_a_row_longer_than_the_given_micro_batch_is_planned_for() -> None:
    short, long = (
        _request(Fixed("LoRA", 16, micro_batch_tokens=64), longest=longest) for longest in (64, 4096)
    )
    assert _chosen(long)["microBatchTokens"] == 64
    assert choose(long).layout.setup.tokens == 4096
    assert choose(long).layout.memory.activations == 64 * choose(short).layout.memory.activations


REFUSALS = [
    ("kept activations", _request(Fixed("LoRA", 16, gradient_checkpointing="Disabled"), longest=16384), "set training.gradientCheckpointing: Enabled ("),
    ("too many rows at once", _request(Fixed("LoRA", 16, gradient_checkpointing="Disabled", micro_batch_tokens=16384), rows=4),
     "set training.microBatchTokens: 8192 ("),
    ("too many rows at once even so", _request(Fixed("LoRA", 16, micro_batch_tokens=131072), gpu=Gpu(40)), "set training.microBatchTokens: 16384 ("),
    ("no sharding", _request(Fixed("Full", zero_stage=2, offload="None"), gpus=3, longest=1024), "set training.zeroStage: 3 ("),
    ("a base that eight GPUs could share", _request(Fixed("LoRA", 16, zero_stage=0), gpus=8, shape=SEVENTY),
     "set training.zeroStage: 3 ("),
    ("a rank that takes much", _request(Fixed("LoRA", 256), gpu=Gpu(24), longest=1024), "set lora.rank: 64 ("),
    ("two cards with ZeRO-2", _request(Fixed("Full", zero_stage=2, offload="None"), gpus=2), "or set resources.gpusPerNode: 4 ("),
    ("a 24 GB card with LoRA", _request(Fixed("LoRA", 16), gpu=Gpu(16)), "set method: QLoRA ("),
    ("rows too long for QLoRA", _request(Fixed("QLoRA", 16), gpu=Gpu(16), longest=32768), "shorten rows to"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "advice"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_refusals_name_the_cheapest_change(request_: Workload, advice: str) -> None:
    plan = choose(request_)
    assert isinstance(plan, NoFit)
    assert advice in (plan.suggestion or "")
    assert plan.suggestion in plan.message
    assert not plan.document()["fits"]


def test_the_refusal_is_a_sentence_with_the_numbers() -> None:
    plan = choose(
        _request(Fixed("Full", zero_stage=2, offload="None", gradient_checkpointing="Enabled"), gpus=2)
    )
    assert isinstance(plan, NoFit)
    assert plan.message == (
        "Method Full with ZeRO-2 on this llama model of 8.0B parameters needs 93.7 GiB on each of 2 GPUs of "
        "80 GiB, of which 72.0 GiB may be used; set in training zeroStage: 2, offload: Optimizer (about half "
        "the speed), gradientCheckpointing: Disabled and microBatchTokens: 8192 (62.2 GiB per GPU, 187 GiB of "
        "each host), or set resources.gpusPerNode: 4 (65.5 GiB per GPU)."
    )


def test_another_gpu_type_of_the_administrator_is_named() -> None:
    request = Workload(shape_by_config(LLAMA_70B), Fixed("QLoRA", 16), Gpu(24), 1024)
    plan = choose(request, (Gpu(140.4, "H200"), Gpu(80, "A100")))
    assert isinstance(plan, NoFit)
    assert (plan.suggestion or "").startswith("set resources.gpuType: A100 (")


def test_nothing_helps_a_model_that_is_far_too_large() -> None:
    plan = choose(Workload(shape_by_config(LLAMA_70B), Fixed("QLoRA", 16), Gpu(8), 1024))
    assert isinstance(plan, NoFit)
    assert plan.suggestion is None
    assert plan.message.endswith("; choose a smaller base model.")


def test_a_small_host_is_named() -> None:
    plan = choose(_request(Fixed("Full", zero_stage=3, offload="All"), gpu=Gpu(80, host_memory_gib=64)))
    assert isinstance(plan, NoFit)
    assert "of each host (offload: All), which has 64 GiB" in plan.message


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (_request(Fixed("LoRA", 16), gpus=4, rows=6), "effectiveBatchSize is 6 for 4 processes"),
        (_request(Fixed("LoRA", 16, zero_stage=2)), "LoRA has no ZeRO stage 2"),
        (_request(Fixed("Full", zero_stage=0, offload="All")), "needs ZeRO stage 3"),
    ],
    ids=["batch and GPUs", "stage and method", "stage and offload"],
)
def test_settings_that_clash_are_refused(request_: Workload, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(request_)


def test_the_document() -> None:
    document = choose(_request(Fixed("LoRA", 16), rows=2)).document()
    assert document["fits"] is True
    assert document["limitGiB"] == 72.0
    assert document["suggestion"] is None
    assert sum(document["breakdown"].values()) == pytest.approx(document["peakGiB"], abs=0.1)


ISSUE = [
    ("70B LoRA on 8 x 80 GB", _request(Fixed("LoRA", 16), gpus=8, gpu=Gpu(79.1), shape=SEVENTY, longest=2048, rows=32)),
    ("70B QLoRA on one 80 GB card", _request(Fixed("QLoRA", 16), gpu=Gpu(79.1), shape=SEVENTY, longest=2048)),
    ("13B QLoRA within 24 GiB", _request(Fixed("QLoRA", 16), gpu=Gpu(22), shape=shape_by_config(LLAMA2_13B), longest=2048)),
    ("70B Full on 32 x 80 GB", _request(Fixed("Full"), gpus=8, nodes=4, gpu=Gpu(79.1), shape=SEVENTY, longest=2048)),
]  # fmt: skip


@pytest.mark.parametrize("work", [row[1] for row in ISSUE], ids=[row[0] for row in ISSUE])
def test_large_models_are_planned(work: Workload) -> None:
    plan = choose(work)
    assert isinstance(plan, MemoryPlan)
    assert not plan.tight


def test_a_lora_of_70b_on_one_card_is_told_what_its_job_can_say() -> None:
    """Case 84: a method that no job accepted was suggested."""
    plan = choose(_request(Fixed("LoRA", 16), gpu=Gpu(79.1), shape=SEVENTY), (Gpu(178, "b200"),))
    assert isinstance(plan, NoFit)
    assert "set method: QLoRA (" in plan.message
    assert "or set resources.gpuType: b200 (" in plan.message


def test_the_fallback_is_taken_only_where_the_method_cannot_fit() -> None:
    """R21."""
    small, large = (_request(Fixed("LoRA", 16), shape=shape) for shape in (EIGHT, SEVENTY))
    assert choose_method(small, "QLoRA") == choose(small)
    fallen_back = choose_method(large, "QLoRA")
    assert isinstance(fallen_back, MemoryPlan)
    assert fallen_back.layout.setup.method == "QLoRA"
    assert isinstance(choose_method(large, None), NoFit)
    hopeless = replace(large, gpu=Gpu(8))
    assert choose_method(hopeless, "QLoRA") == choose(hopeless)


def test_another_method_is_suggested_without_the_settings_that_it_does_not_take() -> None:
    plan = choose(_request(Fixed("Full", zero_stage=2, offload="None"), gpu=Gpu(24, host_memory_gib=64)))
    assert isinstance(plan, NoFit)
    assert "set method: LoRA without training.zeroStage and offload (" in plan.message
    plan = choose(_request(Fixed("LoRA", 16, offload="None"), gpu=Gpu(16)))
    assert isinstance(plan, NoFit)
    assert "set method: QLoRA (" in plan.message  # whose job may say that nothing is offloaded


def test_a_plan_close_to_its_limit_is_called_tight_with_what_to_change() -> None:
    work = _request(Fixed("LoRA", 16, gradient_checkpointing="Disabled", micro_batch_tokens=4096))
    needed = choose(work).layout.memory.total / GIB
    tight = choose(replace(work, gpu=Gpu(needed / 0.9 / 0.97)))
    assert isinstance(tight, MemoryPlan)
    assert tight.tight
    assert tight.document()["tight"] is True
    assert (tight.suggestion or "").startswith("set training.gradientCheckpointing: Enabled (")
    assert not choose(replace(work, gpu=Gpu(needed / 0.9 / 0.9))).document()["tight"]


def test_a_layout_with_room_is_preferred_to_a_faster_one_without() -> None:
    work = _request(Fixed("LoRA", 16), longest=2048)
    free = choose(work).layout.memory.total / GIB
    plan = choose(replace(work, gpu=Gpu(free / 0.9 / 0.99)))
    assert isinstance(plan, MemoryPlan)
    assert not plan.tight


def why_no_job(fixed: Fixed) -> str | None:
    """What job.json says to these settings; None when it takes them."""
    training = {
        "zeroStage": fixed.zero_stage,
        "offload": fixed.offload if fixed.method == "Full" else None,
        "gradientCheckpointing": fixed.gradient_checkpointing,
    }
    spec = {
        "baseModel": {"source": "pvc://claim/base"},
        "method": fixed.method,
        "lora": None if fixed.rank is None else {"rank": fixed.rank},
        "dataset": {"source": "pvc://claim/rows.jsonl"},
        "output": {"destination": "pvc://claim/out"},
        "training": training,
    }
    try:
        Spec.model_validate(spec)
    except ValidationError as error:
        return str(error)
    return None


@st.composite
def requests(draw: st.DrawFn) -> Workload:
    method = draw(st.sampled_from(["LoRA", "QLoRA", "Full"]))
    settings_ = Fixed(
        method,  # type: ignore[arg-type]
        None if method == "Full" else draw(st.sampled_from([8, 64])),
        zero_stage=draw(st.sampled_from([None, 0, 3])),
        offload=draw(st.sampled_from([None, "None"])),  # type: ignore[arg-type]
        gradient_checkpointing=draw(st.sampled_from([None, "Enabled", "Selective", "Disabled"])),  # type: ignore[arg-type]
        micro_batch_tokens=draw(st.sampled_from([None, 64, 4096])),
    )
    gpus = draw(st.sampled_from([1, 2, 4]))
    return Workload(
        shape_by_config(draw(st.sampled_from([LLAMA_1B, QWEN25_1B, LLAMA_8B, LLAMA2_13B, LLAMA_70B]))),
        settings_,
        Gpu(draw(st.sampled_from([16, 24, 40, 80, 140.4]))),
        draw(st.integers(16, 20000)),
        rows=gpus * draw(st.sampled_from([2, 4, 8])),
        gpus_per_node=gpus,
    )


@settings(max_examples=60, deadline=None)
@given(requests())
def test_what_was_given_is_never_changed(request_: Workload) -> None:
    plan = choose(request_)
    setup, wanted = plan.layout.setup, request_.fixed
    chosen = (
        setup.method,
        setup.rank,
        setup.zero_stage,
        setup.offload,
        setup.gradient_checkpointing,
        plan.layout.micro_batch_tokens,
    )
    asked = (
        wanted.method,
        wanted.rank,
        wanted.zero_stage,
        wanted.offload,
        wanted.gradient_checkpointing,
        wanted.micro_batch_tokens,
    )
    assert all(ask in (None, got) for ask, got in zip(asked, chosen, strict=True))
    assert setup.gpus == request_.gpus
    assert setup.tokens == max(plan.layout.micro_batch_tokens, request_.longest)
    assert isinstance(plan, MemoryPlan) == fits(plan.layout.memory, request_.gpu.memory_gib)


@settings(max_examples=60, deadline=None)
@given(requests())
def test_what_is_suggested_fits(request_: Workload) -> None:
    for suggestion in suggest(request_, (Gpu(192, "large"),)):
        plan = choose(suggestion.work)
        assert isinstance(plan, MemoryPlan)
        assert plan.layout == suggestion.layout
        assert why_no_job(suggestion.work.fixed) is None
        assert fits(plan.layout.memory, suggestion.work.gpu.memory_gib)


def test_a_suggestion_says_that_the_base_is_no_longer_shared() -> None:
    """Changed as it says, a job that still had its zeroStage would not fit."""
    fixed = Fixed("LoRA", 16, zero_stage=3, micro_batch_tokens=16384)
    (suggestion,) = suggest(_request(fixed, gpu=Gpu(22), longest=1024))
    assert suggestion.text.startswith("set in training zeroStage: 0, gradientCheckpointing: Enabled and")


@settings(max_examples=60, deadline=None)
@given(requests())
def test_a_larger_gpu_or_a_shorter_row_never_turns_a_fit_into_a_refusal(request_: Workload) -> None:
    if fastest(request_) is None:
        return
    larger = replace(request_, gpu=Gpu(request_.gpu.memory_gib * 2))
    assert fastest(larger) is not None
    assert fastest(replace(request_, longest=max(1, request_.longest // 2))) is not None
