"""How a job runs on its GPUs: the fastest layout that fits, else why none does and the changes that help.

What the job says is never changed. A change is suggested in the job's own fields, and only when the job with
it was planned and fits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from finetune_trainer.contracts import Method
from finetune_trainer.planning.layouts import Fixed, Gpu, Layout, Workload, fastest, smallest
from finetune_trainer.planning.memory import FIT_SHARE, GIB, STAGES, fits, in_gib, is_tight

_LENGTH_STEP = 64
_ADAPTER_RANK = 16  # planning/defaults.py
_LEAST_RANK = 8
_GPUS_PER_NODE = (2, 4, 8)
_NODES = (2, 4, 8, 16)


@dataclass(frozen=True)
class Suggestion:
    """A change in words, the job after it and the layout that it would run in."""

    text: str
    work: Workload
    layout: Layout


@dataclass(frozen=True)
class MemoryPlan:
    """The way a job runs; `suggestion` says what to change where its memory is tight."""

    layout: Layout
    gpu: Gpu
    suggestion: str | None = None

    @property
    def tight(self) -> bool:
        """Whether the peak is within 5 % of the limit."""
        return is_tight(self.layout.memory, self.gpu.memory_gib)

    def document(self) -> dict[str, Any]:
        """The plan as JSON; sizes in GiB (docs: `finetune-trainer plan --output json`)."""
        return {"fits": True, "tight": self.tight, **_document(self.layout, self.gpu, self.suggestion)}


@dataclass(frozen=True)
class NoFit:
    """Why a job cannot run, the layout that needs the least, and the changes that help (None: unknown)."""

    layout: Layout
    gpu: Gpu
    message: str
    suggestion: str | None

    def document(self) -> dict[str, Any]:
        """The layout that needs the least as JSON, like MemoryPlan's."""
        return {"fits": False, "tight": False, **_document(self.layout, self.gpu, self.suggestion)}


def choose(work: Workload, other_gpus: tuple[Gpu, ...] = ()) -> MemoryPlan | NoFit:
    """The fastest way to run a job that fits (R15 to R19), else why not and the cheapest changes that do.

    `other_gpus` are the administrator's other types, for suggestions. UserError for settings that no run can
    combine.
    """
    least = smallest(work)
    best = fastest(work)
    if best is None:
        advice = _joined(suggest(work, other_gpus))
        return NoFit(least, work.gpu, _refusal(work, least, advice), advice)
    plan = MemoryPlan(best, work.gpu)
    return replace(plan, suggestion=_joined(suggest(work, other_gpus))) if plan.tight else plan


def choose_method(
    work: Workload, fallback: Method | None, other_gpus: tuple[Gpu, ...] = ()
) -> MemoryPlan | NoFit:
    """The same, by the `fallback` method where the job's own cannot fit any way (R21)."""
    plan = choose(work, other_gpus)
    if fallback is None or isinstance(plan, MemoryPlan):
        return plan
    fallen_back = choose(replace(work, fixed=replace(work.fixed, method=fallback)), other_gpus)
    return fallen_back if isinstance(fallen_back, MemoryPlan) else plan


def suggest(work: Workload, other_gpus: tuple[Gpu, ...] = ()) -> tuple[Suggestion, ...]:
    """The cheapest changes that make the job fit and leave room, else that make it fit; () if none does.

    By rising cost: what only takes time (micro-batches, gradient checkpointing, ZeRO), a smaller adapter,
    what changes the result (another method, shorter rows), what takes money (another GPU type, more GPUs).
    Beside one that offloads or changes the result stands the first that takes money: which is cheaper
    depends.
    """
    return _cheapest(work, other_gpus, roomy=True) or (
        () if fastest(work) else _cheapest(work, other_gpus, roomy=False)
    )


def _cheapest(work: Workload, other_gpus: tuple[Gpu, ...], *, roomy: bool) -> tuple[Suggestion, ...]:
    free = next(_working(_slower(work), roomy=roomy), None)
    if free and free.layout.setup.offload == "None":
        return (free,)
    first = free or next(_working(_smaller(work), roomy=roomy), None)
    paid = next(_working(_larger(work, other_gpus), roomy=roomy), None)
    return tuple(found for found in (first, paid) if found)


@dataclass(frozen=True)
class _Change:
    work: Workload
    text: Callable[[Layout], str]


def _joined(suggestions: tuple[Suggestion, ...]) -> str | None:
    return ", or ".join(found.text for found in suggestions) or None


def _working(changes: Iterator[_Change], *, roomy: bool) -> Iterator[Suggestion]:
    for change in changes:
        layout = fastest(change.work) if change.work.divisible else None
        if layout and not (roomy and is_tight(layout.memory, change.work.gpu.memory_gib)):
            yield Suggestion(f"{change.text(layout)} ({_need(layout)})", change.work, layout)


def _slower(work: Workload) -> Iterator[_Change]:
    """Give up settings of the job that only buy speed, one at a time, then a smaller adapter, then all."""
    fixed = work.fixed
    if fixed.micro_batch_tokens is not None:
        yield _Change(_with(work, micro_batch_tokens=None), _micro_batches)
    if fixed.gradient_checkpointing not in (None, "Enabled"):
        yield _Change(
            _with(work, gradient_checkpointing="Enabled"),
            partial(_as_written, "set training.gradientCheckpointing: Enabled"),
        )
    yield from _smaller_adapters(work)
    if fixed.zero_stage is not None:
        # Without stages there is nothing to offload by; what is offloaded already stays so.
        yield _Change(_with(work, zero_stage=None, offload=fixed.offload or "None"), _stage)
    free = Fixed(fixed.method, fixed.rank, fixed.target_modules)
    yield _Change(replace(work, fixed=free), partial(_everything, fixed))


def _smaller_adapters(work: Workload) -> Iterator[_Change]:
    rank = (work.fixed.rank or 0) // 2
    while rank >= _LEAST_RANK:
        yield _Change(_with(work, rank=rank), partial(_as_written, f"set lora.rank: {rank}"))
        rank //= 2


def _smaller(work: Workload) -> Iterator[_Change]:
    """Methods that train less or compress the base, then shorter rows."""
    others: dict[Method, tuple[Method, ...]] = {"Full": ("LoRA", "QLoRA"), "LoRA": ("QLoRA",), "QLoRA": ()}
    for method in others[work.fixed.method]:
        yield _by_method(work, method)
    shorter = _longest_that_fits(work)
    if shorter:
        text = f"shorten rows to {shorter:,} tokens and set training.maxLength: {shorter}"
        yield _Change(replace(work, longest=shorter), partial(_as_written, text))


def _by_method(work: Workload, method: Method) -> _Change:
    fixed = work.fixed
    stage = fixed.zero_stage if fixed.zero_stage in STAGES[method] else None
    text = f"set method: {method}"
    if (stage, fixed.offload) != (fixed.zero_stage, None):
        text += " without training.zeroStage and offload"
        stage = None
    rank = fixed.rank or _ADAPTER_RANK
    return _Change(
        _with(work, method=method, rank=rank, zero_stage=stage, offload=None), partial(_as_written, text)
    )


def _larger(work: Workload, other_gpus: tuple[Gpu, ...]) -> Iterator[_Change]:
    """Other types of GPU, then more of the same."""
    for gpu in sorted(other_gpus, key=lambda gpu: gpu.memory_gib):
        text = f"set resources.gpuType: {gpu.name}"
        yield _Change(replace(work, gpu=gpu), partial(_as_written, text))
    sizes = [(count, 1) for count in _GPUS_PER_NODE] + [(_GPUS_PER_NODE[-1], count) for count in _NODES]
    for per_node, nodes in sizes:
        if per_node * nodes > work.gpus:
            yield _Change(replace(work, gpus_per_node=per_node, nodes=nodes), _gpus)


def _with(work: Workload, **changed: Any) -> Workload:
    return replace(work, fixed=replace(work.fixed, **changed))


def _longest_that_fits(work: Workload) -> int:
    """The longest row that would fit with room, a multiple of 64; 0 if none. Memory grows with length."""
    low, high = 0, (work.longest - 1) // _LENGTH_STEP
    while low < high:
        middle = (low + high + 1) // 2
        layout = fastest(replace(work, longest=middle * _LENGTH_STEP))
        if layout and not is_tight(layout.memory, work.gpu.memory_gib):
            low = middle
        else:
            high = middle - 1
    return low * _LENGTH_STEP


def _as_written(text: str, _: Layout) -> str:
    return text


def _micro_batches(layout: Layout) -> str:
    return f"set training.microBatchTokens: {layout.micro_batch_tokens}"


def _stage(layout: Layout) -> str:
    return f"set training.zeroStage: {layout.setup.zero_stage}"


def _gpus(layout: Layout) -> str:
    nodes = f"resources.nodes: {layout.setup.nodes} and " if layout.setup.nodes > 1 else ""
    return f"set {nodes}resources.gpusPerNode: {layout.setup.gpus_per_node}"


def _everything(fixed: Fixed, layout: Layout) -> str:
    """All fields of the layout; zeroStage and offload also where they take back what the job says."""
    setup = layout.setup
    speed = {"None": "", "Optimizer": " (about half the speed)", "All": " (about a quarter of the speed)"}
    stage = f"zeroStage: {setup.zero_stage}, " if setup.zero_stage or fixed.zero_stage else ""
    offloads = (fixed.offload or "None", setup.offload) != ("None", "None")
    offload = f"offload: {setup.offload}{speed[setup.offload]}, " if offloads else ""
    rest = f"gradientCheckpointing: {setup.gradient_checkpointing}"
    return f"set in training {stage}{offload}{rest} and microBatchTokens: {layout.micro_batch_tokens}"


def _need(layout: Layout) -> str:
    host = f", {layout.memory.host / GIB:.0f} GiB of each host" if layout.setup.offload != "None" else ""
    return f"{layout.memory.total / GIB:.1f} GiB per GPU{host}"


def _refusal(work: Workload, least: Layout, advice: str | None) -> str:
    shape, setup = work.shape, least.setup
    stage = f" with ZeRO-{setup.zero_stage}" if setup.zero_stage else ""
    at_least = "" if work.fixed.gradient_checkpointing is not None else " at least"
    text = f"Method {setup.method}{stage} on this {shape.model_type} model of {shape.parameters / 1e9:.1f}B"
    if not fits(least.memory, work.gpu.memory_gib):
        allowed = FIT_SHARE * work.gpu.memory_gib
        where = f"each of {setup.gpus} GPUs" if setup.gpus > 1 else "one GPU"
        text += f" parameters needs{at_least} {least.memory.total / GIB:.1f} GiB on {where} of"
        text += f" {work.gpu.memory_gib:g} GiB, of which {allowed:.1f} GiB may be used"
    else:
        text += f" parameters needs {least.memory.host / GIB:.0f} GiB of each host"
        text += f" (offload: {setup.offload}), which has {work.gpu.host_memory_gib:g} GiB"
    return f"{text}; {advice}." if advice else f"{text}; choose a smaller base model."


def _document(layout: Layout, gpu: Gpu, suggestion: str | None) -> dict[str, Any]:
    setup = layout.setup
    return {
        "peakGiB": in_gib(layout.memory.total),
        "limitGiB": round(FIT_SHARE * gpu.memory_gib, 2),
        "gpuMemoryGiB": gpu.memory_gib,
        "gpus": setup.gpus,
        "method": setup.method,
        "breakdown": {name: in_gib(size) for name, size in layout.memory.parts().items()},
        "hostGiB": in_gib(layout.memory.host),
        "chosen": {
            "zeroStage": setup.zero_stage,
            "microBatchTokens": layout.micro_batch_tokens,
            "gradientCheckpointing": setup.gradient_checkpointing,
            "offload": setup.offload,
        },
        "suggestion": suggestion,
    }
