"""What a plan chooses, what it refuses, and that its advice helps."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import UserError
from finetune_trainer.planning.candidates import Given, Gpu, Request, fastest
from finetune_trainer.planning.choose import MemoryPlan, NoFit, choose
from finetune_trainer.planning.memory import fits
from finetune_trainer.planning.shape import shape_of
from finetune_trainer.planning.suggest import suggest
from tests.unit.trainer_planning.shapes import LLAMA2_13B, LLAMA_1B, LLAMA_8B, LLAMA_70B, QWEN25_1B

EIGHT = shape_of(LLAMA_8B)
CARD = Gpu(80)


def _request(settings: Given, gpus: int = 1, gpu: Gpu = CARD, **more: Any) -> Request:
    return Request(EIGHT, settings, gpu, **{"longest": 4096, "gpus_per_node": gpus, **more})


def _chosen(request: Request) -> dict[str, Any]:
    plan = choose(request)
    assert isinstance(plan, MemoryPlan)
    return dict(plan.document()["chosen"])


CHOICES = [
    ("short rows of LoRA keep their activations", _request(Given("LoRA", 16), longest=512, effective_batch=16),
     {"zeroStage": 0, "checkpointing": False, "microBatchRows": 16, "accumulation": 1, "offload": "none"}),
    ("with long rows smaller micro-batches are cheaper than recomputing",
     _request(Given("LoRA", 16), longest=4096, effective_batch=8),
     {"checkpointing": False, "microBatchRows": 2, "microBatchTokens": 8192, "accumulation": 4}),
    ("a row that only fits recomputed is recomputed", _request(Given("LoRA", 16), longest=16384),
     {"checkpointing": True, "microBatchRows": 1, "zeroStage": 0}),
    ("a model that fits whole is not sharded", _request(Given("LoRA", 16), gpus=4, effective_batch=4), {"zeroStage": 0}),
    ("four GPUs train 8B with all weights", _request(Given("Full"), gpus=4, effective_batch=4),
     {"zeroStage": 3, "offload": "none", "checkpointing": False}),
    ("two GPUs need the host's memory", _request(Given("Full"), gpus=2, effective_batch=8),
     {"offload": "optimizer", "zeroStage": 2}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "expected"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES]
)
def test_choices(request_: Request, expected: dict[str, Any]) -> None:
    chosen = _chosen(request_)
    assert {name: chosen[name] for name in expected} == expected


def test_the_70b_base_of_lora_is_sharded_over_four_cards() -> None:
    request = Request(shape_of(LLAMA_70B), Given("LoRA", 16), CARD, 2048, gpus_per_node=4)
    assert _chosen(request)["zeroStage"] == 3


REFUSALS = [
    ("kept activations", _request(Given("LoRA", 16, checkpointing=False), longest=16384), "turn checkpointing on ("),
    ("too many rows at once", _request(Given("LoRA", 16, checkpointing=False, micro_batch_rows=4), effective_batch=4),
     "turn checkpointing on ("),
    ("no sharding", _request(Given("Full", zero_stage=2, offload="none"), gpus=3, longest=1024), "use ZeRO-3 ("),
    ("two cards with ZeRO-2", _request(Given("Full", zero_stage=2, offload="none"), gpus=2), "or use 4 GPUs ("),
    ("a 24 GB card with LoRA", _request(Given("LoRA", 16), gpu=Gpu(16)), "use method QLoRA ("),
    ("rows too long for QLoRA", _request(Given("QLoRA", 16), gpu=Gpu(16), longest=32768), "shorten rows to"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "advice"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_refusals_name_the_cheapest_change(request_: Request, advice: str) -> None:
    plan = choose(request_)
    assert isinstance(plan, NoFit)
    assert advice in (plan.suggestion or "")
    assert plan.suggestion in plan.message
    assert not plan.document()["fits"]


def test_the_refusal_is_a_sentence_with_the_numbers() -> None:
    plan = choose(_request(Given("Full", zero_stage=2, offload="none", checkpointing=True), gpus=2))
    assert isinstance(plan, NoFit)
    assert plan.message == (
        "Method Full with ZeRO-2 on this llama model of 8.0B parameters needs 93.7 GiB on each of 2 GPUs of "
        "80 GiB, of which 72.0 GiB may be used; use ZeRO-2 with the optimizer offloaded (about half the "
        "speed), checkpointing off and micro-batches of 1 row (40.7 GiB and 179 GiB of each host), or use 4 "
        "GPUs (63.8 GiB each)."
    )


def test_another_gpu_type_of_the_administrator_is_named() -> None:
    request = Request(shape_of(LLAMA_70B), Given("QLoRA", 16), Gpu(24), 1024)
    plan = choose(request, (Gpu(140.4, "H200"), Gpu(80, "A100")))
    assert isinstance(plan, NoFit)
    assert (plan.suggestion or "").startswith("use gpuType A100 (")


def test_nothing_helps_a_model_that_is_far_too_large() -> None:
    plan = choose(Request(shape_of(LLAMA_70B), Given("QLoRA", 16), Gpu(8), 1024))
    assert isinstance(plan, NoFit)
    assert plan.suggestion is None
    assert plan.message.endswith("; choose a smaller base model.")


def test_a_small_host_is_named() -> None:
    plan = choose(_request(Given("Full", zero_stage=3, offload="all"), gpu=Gpu(80, host_memory_gib=64)))
    assert isinstance(plan, NoFit)
    assert "GiB of each host for what is offloaded, which has 64 GiB" in plan.message


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (_request(Given("LoRA", 16), gpus=4, effective_batch=6), "effectiveBatchSize is 6 for 4 GPUs"),
        (_request(Given("LoRA", 16, micro_batch_rows=3), effective_batch=8), "make it a multiple of 3"),
        (_request(Given("LoRA", 16, zero_stage=2)), "LoRA has no ZeRO stage 2"),
        (_request(Given("Full", zero_stage=0, offload="all")), "needs ZeRO stage 3"),
    ],
    ids=["batch and GPUs", "batch and micro-batch", "stage and method", "stage and offload"],
)
def test_settings_that_clash_are_refused(request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(request_)


def test_the_document() -> None:
    document = choose(_request(Given("LoRA", 16), effective_batch=2)).document()
    assert document["fits"] is True
    assert document["limitGiB"] == 72.0
    assert document["suggestion"] is None
    assert sum(document["breakdown"].values()) == pytest.approx(document["peakGiB"], abs=0.1)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    method = draw(st.sampled_from(["LoRA", "QLoRA", "Full"]))
    settings_ = Given(
        method,  # type: ignore[arg-type]
        None if method == "Full" else draw(st.sampled_from([8, 64])),
        zero_stage=draw(st.sampled_from([None, 0] if method == "QLoRA" else [None, 0, 3])),
        offload=draw(st.sampled_from([None, "none"])),  # type: ignore[arg-type]
        checkpointing=draw(st.sampled_from([None, True, False])),
        micro_batch_rows=draw(st.sampled_from([None, 1, 2])),
    )
    gpus = draw(st.sampled_from([1, 2, 4]))
    return Request(
        shape_of(draw(st.sampled_from([LLAMA_1B, QWEN25_1B, LLAMA_8B, LLAMA2_13B, LLAMA_70B]))),
        settings_,
        Gpu(draw(st.sampled_from([16, 24, 40, 80, 140.4]))),
        draw(st.integers(16, 20000)),
        effective_batch=gpus * draw(st.sampled_from([2, 4, 8])),
        gpus_per_node=gpus,
    )


@settings(max_examples=60, deadline=None)
@given(requests())
def test_what_was_given_is_never_changed(request_: Request) -> None:
    plan = choose(request_)
    setup, wanted = plan.choice.setup, request_.given
    chosen = (
        setup.method,
        setup.rank,
        setup.zero_stage,
        setup.offload,
        setup.checkpointing,
        plan.choice.rows,
    )
    asked = (
        wanted.method,
        wanted.rank,
        wanted.zero_stage,
        wanted.offload,
        wanted.checkpointing,
        wanted.micro_batch_rows,
    )
    assert all(ask in (None, got) for ask, got in zip(asked, chosen, strict=True))
    assert setup.gpus == request_.gpus
    assert setup.tokens == plan.choice.rows * request_.longest
    assert plan.choice.rows * plan.choice.accumulation * setup.gpus == request_.effective_batch
    assert isinstance(plan, MemoryPlan) == fits(plan.choice.memory, request_.gpu.memory_gib)


@settings(max_examples=60, deadline=None)
@given(requests())
def test_what_is_suggested_fits(request_: Request) -> None:
    for suggestion in suggest(request_, (Gpu(192, "large"),)):
        plan = choose(suggestion.request)
        assert isinstance(plan, MemoryPlan)
        assert plan.choice == suggestion.choice
        assert fits(plan.choice.memory, suggestion.request.gpu.memory_gib)


@settings(max_examples=60, deadline=None)
@given(requests())
def test_a_larger_gpu_or_a_shorter_row_never_turns_a_fit_into_a_refusal(request_: Request) -> None:
    if fastest(request_) is None:
        return
    larger = replace(request_, gpu=Gpu(request_.gpu.memory_gib * 2))
    assert fastest(larger) is not None
    assert fastest(replace(request_, longest=max(1, request_.longest // 2))) is not None
