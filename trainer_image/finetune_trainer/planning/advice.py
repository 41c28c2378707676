"""Advice on whether and how to train (R1 to R3, R11, R12, R21): shown as a condition, never acted upon."""

from dataclasses import dataclass, replace

from finetune_trainer.planning.choose import MemoryPlan
from finetune_trainer.planning.layouts import Workload, fastest
from finetune_trainer.planning.memory import GIB

# Between the sizes that R11 names as small (9B to 27B) and the 70B that R12 warns of.
LARGE_MODEL = 30e9
_DAYS_PER_MONTH = 30
# Below this many calls per day an API is usually cheaper than GPUs of one's own (R53).
_SELF_HOST_CALLS = 1_000_000


@dataclass(frozen=True)
class Advice:
    """One piece of advice: a CamelCase reason for a condition and a sentence that says what to do."""

    reason: str
    message: str


@dataclass(frozen=True)
class Intent:
    """What the job says about its purpose; None and 0 where it says nothing."""

    goal: str | None = None
    knowledge_changes_per_month: float = 0
    calls_per_month: int | None = None


def advise(intent: Intent, work: Workload | None, plan: MemoryPlan | None) -> tuple[Advice, ...]:
    """All advice on a job as it was written; `work` and `plan` where its GPUs are known."""
    found = (
        knowledge_gap(intent),
        changing_knowledge(intent),
        quantisation(work, plan) if work and plan else None,
        tight_memory(plan) if plan else None,
        large_model(work) if work else None,
        few_calls(intent),
    )
    return tuple(advice for advice in found if advice)


def knowledge_gap(intent: Intent) -> Advice | None:
    """R1, R2: tuning teaches behaviour (format, style, jargon, refusals, a removed prompt), not facts."""
    if intent.goal != "Knowledge":
        return None
    return Advice(
        "KnowledgeGap",
        "The goal is Knowledge: fine-tuning teaches behaviour, not facts, and may make the model confidently "
        "wrong. Retrieve the facts at request time (RAG) or put them into the prompt; tune for the form of "
        "the answers.",
    )


def changing_knowledge(intent: Intent) -> Advice | None:
    """R3: knowledge that changes monthly or more often is out of date before the next run."""
    changes = intent.knowledge_changes_per_month
    if changes < 1:
        return None
    often = "once" if changes == 1 else f"{changes:.0f} times"
    return Advice(
        "ChangingKnowledge",
        f"The knowledge changes {often} a month: each change would need "
        "a new run. Retrieve it at request time (RAG) instead.",
    )


def quantisation(work: Workload, plan: MemoryPlan) -> Advice | None:
    """R21: QLoRA only when memory forces it; LoRA is faster and trains against the base as it is served."""
    if plan.layout.setup.method != "QLoRA":
        return None
    fixed = work.fixed
    lora = fastest(replace(work, fixed=replace(fixed, method="LoRA")))
    if lora is None:
        return Advice(
            "QuantisedBase",
            "Method QLoRA is in force, since LoRA does not fit: the adapter is trained against a base in 4 "
            "bits, which costs some quality and speed. It is scored and served on the base in 16 bits.",
        )
    return Advice(
        "NeedlessQuantisation",
        f"Method QLoRA trains against a 4-bit base, which costs quality and speed, and LoRA fits: it needs "
        f"{lora.memory.total / GIB:.1f} GiB of {work.gpu.memory_gib:g} GiB with rank {fixed.rank}. Set "
        "method: LoRA.",
    )


def tight_memory(plan: MemoryPlan) -> Advice | None:
    """A prediction within 5 % of the limit may be exceeded: without compiling, they are within 12 %."""
    if not plan.tight:
        return None
    change = f"To be safe {plan.suggestion}." if plan.suggestion else "Nothing smaller is known for it."
    return Advice(
        "TightMemory",
        f"The expected peak of {plan.layout.memory.total / GIB:.1f} GiB is within 5 % of what may be used of "
        f"{plan.gpu.memory_gib:g} GiB, so training may run out of memory. {change}",
    )


def large_model(work: Workload) -> Advice | None:
    """R11, R12: the smallest base that does the task; tuned, a small one often beats a large one."""
    size = work.shape.parameters
    if size < LARGE_MODEL:
        return None
    return Advice(
        "LargeBaseModel",
        f"The base has {size / 1e9:.0f}B parameters. A tuned model of 7B to 14B often does a narrow task as "
        "well for a tenth of the cost: run this job on a smaller base too and compare their scores.",
    )


def few_calls(intent: Intent) -> Advice | None:
    """R53: below about a million calls per day an API is usually cheaper than GPUs of one's own."""
    if intent.calls_per_month is None or intent.calls_per_month >= _SELF_HOST_CALLS * _DAYS_PER_MONTH:
        return None
    return Advice(
        "FewCalls",
        f"{intent.calls_per_month / _DAYS_PER_MONTH:,.0f} calls a day are below the million from which GPUs "
        "of one's own usually cost less than an API: compare with a provider that takes adapters before "
        "serving it alone on a GPU.",
    )
