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
    ("short rows of LoRA keep their activations, all in one micro-batch",
     _request(Given("LoRA", 16), longest=512, rows=16),
     {"zeroStage": 0, "checkpointing": False, "microBatchTokens": 8192, "offload": "none"}),
    ("no micro-batch is larger than what there is to do", _request(Given("LoRA", 16), longest=100, rows=8),
     {"checkpointing": False, "microBatchTokens": 800}),
    ("with long rows smaller micro-batches are cheaper than recomputing",
     _request(Given("LoRA", 16), longest=4096, rows=8), {"checkpointing": False, "microBatchTokens": 8192}),
    ("a row that only fits recomputed is recomputed", _request(Given("LoRA", 16), longest=16384),
     {"checkpointing": True, "microBatchTokens": 16384, "zeroStage": 0}),
    ("a row longer than any micro-batch that is tried", _request(Given("LoRA", 16), longest=20000),
     {"checkpointing": True, "microBatchTokens": 20000}),
    ("an adapter is not sharded", _request(Given("LoRA", 16), gpus=4, rows=4), {"zeroStage": 0}),
    ("one GPU trains 1B with all weights", replace(_request(Given("Full")), shape=shape_of(LLAMA_1B)), {"zeroStage": 2}),
    ("four GPUs train 8B with all weights: recomputing is cheaper than gathering",
     _request(Given("Full"), gpus=4, rows=4), {"zeroStage": 2, "offload": "none", "checkpointing": True}),
    ("three GPUs gather", _request(Given("Full"), gpus=3, rows=3, longest=1024), {"zeroStage": 3, "offload": "none"}),
    ("two GPUs need the host's memory", _request(Given("Full"), gpus=2, rows=8), {"offload": "optimizer", "zeroStage": 2}),
    ("stages 0 and 1 are taken when they are asked for", _request(Given("Full", zero_stage=1), gpus=4), {"zeroStage": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "expected"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES]
)
def test_choices(request_: Request, expected: dict[str, Any]) -> None:
    chosen = _chosen(request_)
    assert {name: chosen[name] for name in expected} == expected


def test_a_row_longer_than_the_given_micro_batch_is_planned_for() -> None:
    short, long = (
        _request(Given("LoRA", 16, micro_batch_tokens=64), longest=longest) for longest in (64, 4096)
    )
    assert _chosen(long)["microBatchTokens"] == 64
    assert choose(long).choice.setup.tokens == 4096
    assert choose(long).choice.memory.activations == 64 * choose(short).choice.memory.activations


REFUSALS = [
    ("kept activations", _request(Given("LoRA", 16, checkpointing=False), longest=16384), "turn checkpointing on ("),
    ("too many rows at once", _request(Given("LoRA", 16, checkpointing=False, micro_batch_tokens=16384), rows=4),
     "turn checkpointing on ("),
    ("too many rows at once even so", _request(Given("LoRA", 16, micro_batch_tokens=131072), gpu=Gpu(40)), "use micro-batches of"),
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
        "speed), checkpointing off and micro-batches of 8,192 tokens (62.2 GiB and 179 GiB of each host), or "
        "use 4 GPUs (68.8 GiB each)."
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
        (_request(Given("LoRA", 16), gpus=4, rows=6), "effectiveBatchSize is 6 for 4 processes"),
        (_request(Given("LoRA", 16, zero_stage=2)), "LoRA has no ZeRO stage 2"),
        (_request(Given("Full", zero_stage=0, offload="all")), "needs ZeRO stage 3"),
    ],
    ids=["batch and GPUs", "stage and method", "stage and offload"],
)
def test_settings_that_clash_are_refused(request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(request_)


def test_the_document() -> None:
    document = choose(_request(Given("LoRA", 16), rows=2)).document()
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
        zero_stage=draw(st.sampled_from([None, 0, 3] if method == "Full" else [None, 0])),
        offload=draw(st.sampled_from([None, "none"])),  # type: ignore[arg-type]
        checkpointing=draw(st.sampled_from([None, True, False])),
        micro_batch_tokens=draw(st.sampled_from([None, 64, 4096])),
    )
    gpus = draw(st.sampled_from([1, 2, 4]))
    return Request(
        shape_of(draw(st.sampled_from([LLAMA_1B, QWEN25_1B, LLAMA_8B, LLAMA2_13B, LLAMA_70B]))),
        settings_,
        Gpu(draw(st.sampled_from([16, 24, 40, 80, 140.4]))),
        draw(st.integers(16, 20000)),
        rows=gpus * draw(st.sampled_from([2, 4, 8])),
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
        plan.choice.micro_batch_tokens,
    )
    asked = (
        wanted.method,
        wanted.rank,
        wanted.zero_stage,
        wanted.offload,
        wanted.checkpointing,
        wanted.micro_batch_tokens,
    )
    assert all(ask in (None, got) for ask, got in zip(asked, chosen, strict=True))
    assert setup.gpus == request_.gpus
    assert setup.tokens == max(plan.choice.micro_batch_tokens, request_.longest)
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
