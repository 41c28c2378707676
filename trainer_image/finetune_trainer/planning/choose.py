"""What a job leaves out of its layout, chosen so that it fits and is fastest; or why nothing fits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from finetune_trainer.planning.memory import GIB, USABLE, Memory, Method, Offload, Setup, host_bytes, memory
from finetune_trainer.planning.shape import ModelShape

# Fewer tokens per micro-batch leave the device idle between kernels, more gain nothing.
_FEWEST, _MOST = 1024, 16384
_HALF_SPEED_TOKENS = 512
# Time of a step beside ZeRO-2 without offload, measured on one H200 (benchmarks/results/gpu_training.json).
_SLOWER = {"zero3": 2.3, "optimizer": 3.5, "all": 8.0}
_GPU_COUNTS = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Request:
    """What must hold: `gpus` of `gpu_gib` memory, rows of up to `longest` tokens; None is left to choose."""

    method: Method
    gpus: int
    gpu_gib: float
    longest: int = _FEWEST
    rank: int = 16
    tokens: int | None = None
    checkpointing: bool | None = None
    zero_stage: int | None = None
    offload: Offload | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """The layout and what it takes; when `fits` is False the one that needs least, and a `suggestion`."""

    request: Request
    setup: Setup
    needed: Memory
    host: float
    fits: bool
    suggestion: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of `plan --output json` and of reports; memory in GiB."""
        return {
            "fits": self.fits,
            "peakGiB": round(self.needed.total / GIB, 2),
            "limitGiB": round(USABLE * self.request.gpu_gib, 2),
            "gpuMemoryGiB": self.request.gpu_gib,
            "gpus": self.request.gpus,
            "breakdown": self.needed.breakdown(),
            "hostGiB": round(self.host / GIB, 2),
            "chosen": {
                "zeroStage": self.setup.zero_stage,
                "microBatchTokens": self.setup.tokens,
                "checkpointing": self.setup.checkpointing,
                "offload": self.setup.offload,
            },
            "suggestion": self.suggestion,
        }


def choose(shape: ModelShape, request: Request) -> MemoryPlan:
    """The fastest layout within 90 % of memory; what the request gives is never changed."""
    plan = _best(shape, request)
    return plan if plan.fits else replace(plan, suggestion=_suggestion(shape, request))


def _best(shape: ModelShape, request: Request) -> MemoryPlan:
    plans = [_plan(shape, request, setup) for setup in _setups(request)]
    fitting = [plan for plan in plans if plan.fits]
    if fitting:
        return max(fitting, key=lambda plan: _speed(plan.setup))
    return min(plans, key=lambda plan: plan.needed.total)


def _plan(shape: ModelShape, request: Request, setup: Setup) -> MemoryPlan:
    needed = memory(shape, setup)
    fits = needed.total <= USABLE * request.gpu_gib * GIB
    return MemoryPlan(request, setup, needed, host_bytes(shape, setup), fits)


def _setups(request: Request) -> Iterator[Setup]:
    tokens = [request.tokens] if request.tokens else _token_choices(request.longest)
    recompute = [request.checkpointing] if request.checkpointing is not None else [False, True]
    for size, checkpointing, (stage, offload) in product(tokens, recompute, _shardings(request)):
        yield Setup(request.method, request.gpus, size, checkpointing, request.rank, stage, offload)


def _token_choices(longest: int) -> list[int]:
    """Powers of two up to the most that helps, none below the longest row."""
    powers = [_FEWEST * 2**n for n in range(5)]
    return sorted({max(longest, power) for power in powers if power <= _MOST})


def _shardings(request: Request) -> list[tuple[int, Offload]]:
    """ZeRO stages and offloads that belong together; an adapter is never sharded.

    Stages 0 and 1 only when asked for. Who asks for a stage and says nothing of offload wants none.
    """
    if request.method != "Full":
        return [(request.zero_stage or 0, request.offload or "none")]
    if request.zero_stage is not None:
        return [(request.zero_stage, request.offload or "none")]
    known: list[tuple[int, Offload]] = [
        (2, "none"),
        (3, "none"),
        (2, "optimizer"),
        (3, "optimizer"),
        (3, "all"),
    ]
    return [(stage, offload) for stage, offload in known if request.offload in (None, offload)]


def _speed(setup: Setup) -> float:
    """Relative speed: recomputation costs a forward pass, LoRA saves the base's weight gradients.

    FLOPs per token and parameter: Full 6, LoRA 4, and 2 more with recomputation.
    """
    flops = (6 if setup.method == "Full" else 4) + (2 if setup.checkpointing else 0)
    slower = _SLOWER.get(setup.offload, _SLOWER["zero3"] if setup.zero_stage == 3 else 1.0)
    full = setup.tokens / (setup.tokens + _HALF_SPEED_TOKENS)
    return full / (flops * slower)


def _suggestion(shape: ModelShape, request: Request) -> str:
    """The first change of those in order of their cost that makes it fit."""
    for words, changed in _changes(request):
        plan = _best(shape, changed)
        if plan.fits:
            peak = plan.needed.total / GIB
            return f"{words}; each GPU then needs {peak:.1f} of {request.gpu_gib:g} GiB."
    return "Nothing that can be changed makes it fit; choose a smaller base model or GPUs with more memory."


def _changes(request: Request) -> Iterator[tuple[str, Request]]:
    """Ways out, the cheapest first: time, then the layout, then GPUs, then another method."""
    if request.checkpointing is False:
        yield "Recompute activations (checkpointing)", replace(request, checkpointing=None)
    if request.tokens is not None:
        words = "Lower the tokens per micro-batch and recompute activations"
        yield words, replace(request, tokens=None, checkpointing=None)
    free = replace(request, tokens=None, checkpointing=None, zero_stage=None, offload=None)
    if request.method == "Full":
        yield from _ways_to_train_fully(request, free)
        yield "Use method LoRA", replace(free, method="LoRA")
    if request.method != "QLoRA":
        yield "Use method QLoRA", replace(free, method="QLoRA")
    if request.longest > _FEWEST:
        yield f"Shorten the rows to {_FEWEST} tokens (training.maxLength)", replace(free, longest=_FEWEST)


def _ways_to_train_fully(request: Request, free: Request) -> Iterator[tuple[str, Request]]:
    if request.zero_stage is not None:
        yield "Use ZeRO stage 3", replace(free, zero_stage=3, offload="none")
    for gpus in (number for number in _GPU_COUNTS if request.gpus < number <= 4 * request.gpus):
        yield f"Use {gpus} GPUs", replace(free, gpus=gpus, offload="none")
    yield "Keep the optimizer in the host's memory (offload)", replace(free, offload="optimizer")
    yield "Keep weights and optimizer in the host's memory (offload all)", replace(free, offload="all")
