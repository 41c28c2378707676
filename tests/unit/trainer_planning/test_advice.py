"""When a job is advised, and that it only ever is."""

from dataclasses import replace

import pytest

from finetune_trainer.planning.advice import Intent, advise
from finetune_trainer.planning.choose import MemoryPlan, choose, choose_method
from finetune_trainer.planning.layouts import Fixed, Gpu, Workload
from finetune_trainer.planning.memory import GIB
from tests.unit.trainer_base.shapes import LLAMA2_13B, LLAMA_8B, LLAMA_70B, shape_by_config

LORA = Workload(shape_by_config(LLAMA_8B), Fixed("LoRA", 16), Gpu(80), 1024)
QLORA = Workload(shape_by_config(LLAMA2_13B), Fixed("QLoRA", 16), Gpu(24), 2048)

CASES = [
    ("a behaviour to learn", Intent("Format"), LORA, ()),
    ("nothing said", Intent(), LORA, ()),
    ("facts to learn", Intent("Knowledge"), LORA, ("KnowledgeGap",)),
    ("knowledge that changes monthly", Intent("Jargon", 1), LORA, ("ChangingKnowledge",)),
    ("knowledge that changes yearly", Intent("Jargon", 1 / 12), LORA, ()),
    ("QLoRA where memory forces it", Intent(), QLORA, ("QuantisedBase",)),
    (
        "QLoRA where LoRA fits",
        Intent(),
        Workload(shape_by_config(LLAMA2_13B), Fixed("QLoRA", 16), Gpu(80), 2048),
        ("NeedlessQuantisation",),
    ),
    (
        "QLoRA where LoRA fits only with other micro-batches than the job says",
        Intent(),
        Workload(shape_by_config(LLAMA_8B), Fixed("QLoRA", 16, micro_batch_tokens=16384), Gpu(22), 1024),
        ("QuantisedBase",),
    ),
    (
        "a large base",
        Intent(),
        Workload(shape_by_config(LLAMA_70B), Fixed("LoRA", 16), Gpu(80), 64),
        ("LargeBaseModel",),
    ),
    ("a thousand calls a day", Intent(calls_per_month=30_000), LORA, ("FewCalls",)),
    ("two million calls a day", Intent(calls_per_month=60_000_000), LORA, ()),
]


@pytest.mark.parametrize(
    ("intent", "request_", "reasons"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_advice(intent: Intent, request_: Workload, reasons: tuple[str, ...]) -> None:
    assert tuple(advice.reason for advice in advise(intent, request_, _plan(request_))) == reasons


def _plan(work: Workload) -> MemoryPlan | None:
    plan = choose(work)
    return plan if isinstance(plan, MemoryPlan) else None


def test_knowledge_points_to_retrieval() -> None:
    for intent in (Intent("Knowledge"), Intent(knowledge_changes_per_month=4)):
        (advice,) = advise(intent, LORA, _plan(LORA))
        assert "Retrieve" in advice.message


def test_without_gpus_only_the_purpose_is_advised_on() -> None:
    assert [advice.reason for advice in advise(Intent("Knowledge"), None, None)] == ["KnowledgeGap"]


def test_a_fallback_says_that_it_costs_quality_and_how_the_adapter_is_served() -> None:
    """R21."""
    plan = choose_method(replace(QLORA, fixed=Fixed("LoRA", 16)), "QLoRA")
    assert isinstance(plan, MemoryPlan)
    (advice,) = advise(Intent(), QLORA, plan)
    assert "LoRA does not fit" in advice.message
    assert "scored and served on the base in 16 bits" in advice.message


def test_a_tight_plan_is_told_with_what_to_change() -> None:
    work = replace(LORA, fixed=Fixed("LoRA", 16, gradient_checkpointing="Disabled"))
    needed = choose(replace(work, fixed=replace(work.fixed, micro_batch_tokens=1024))).layout.memory.total
    tight = replace(work, gpu=Gpu(needed / GIB / 0.9 / 0.98))
    (advice,) = advise(Intent(), tight, _plan(tight))
    assert advice.reason == "TightMemory"
    assert "within 5 %" in advice.message
    assert "To be safe set training.gradientCheckpointing: Enabled (" in advice.message
