"""When a job is advised, and that it only ever is."""

import pytest

from finetune_trainer.planning.advice import Intent, advise
from finetune_trainer.planning.candidates import Given, Gpu, Request
from finetune_trainer.planning.shape import shape_of
from tests.unit.trainer_planning.shapes import LLAMA2_13B, LLAMA_8B, LLAMA_70B

LORA = Request(shape_of(LLAMA_8B), Given("LoRA", 16), Gpu(80), 1024)
QLORA = Request(shape_of(LLAMA2_13B), Given("QLoRA", 16), Gpu(24), 2048)

CASES = [
    ("a behaviour to learn", Intent("Format"), LORA, ()),
    ("nothing said", Intent(), LORA, ()),
    ("facts to learn", Intent("Knowledge"), LORA, ("KnowledgeGap",)),
    ("knowledge that changes monthly", Intent("Jargon", 1), LORA, ("ChangingKnowledge",)),
    ("knowledge that changes yearly", Intent("Jargon", 1 / 12), LORA, ()),
    ("QLoRA where memory forces it", Intent(), QLORA, ()),
    (
        "QLoRA where LoRA fits",
        Intent(),
        Request(shape_of(LLAMA2_13B), Given("QLoRA", 16), Gpu(80), 2048),
        ("NeedlessQuantisation",),
    ),
    (
        "a large base",
        Intent(),
        Request(shape_of(LLAMA_70B), Given("LoRA", 16), Gpu(80), 64),
        ("LargeBaseModel",),
    ),
    ("a thousand calls a day", Intent(calls_per_month=30_000), LORA, ("FewCalls",)),
    ("two million calls a day", Intent(calls_per_month=60_000_000), LORA, ()),
]


@pytest.mark.parametrize(
    ("intent", "request_", "reasons"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_advice(intent: Intent, request_: Request, reasons: tuple[str, ...]) -> None:
    assert tuple(advice.reason for advice in advise(intent, request_)) == reasons


def test_knowledge_points_to_retrieval() -> None:
    for intent in (Intent("Knowledge"), Intent(knowledge_changes_per_month=4)):
        (advice,) = advise(intent, LORA)
        assert "Retrieve" in advice.message
