"""How a job runs on its GPUs: what it leaves out is chosen for speed within 90 % of memory, else refused."""

from dataclasses import dataclass
from typing import Any

from finetune_trainer.planning.candidates import Choice, Gpu, Request, fastest, smallest
from finetune_trainer.planning.memory import FIT_SHARE, GIB, fits, in_gib
from finetune_trainer.planning.suggest import suggest


@dataclass(frozen=True)
class MemoryPlan:
    """The way a job runs."""

    choice: Choice
    gpu: Gpu

    def document(self) -> dict[str, Any]:
        """The plan as JSON; sizes in GiB (docs: `finetune-trainer plan --output json`)."""
        return _document(self.choice, self.gpu, fits=True, suggestion=None)


@dataclass(frozen=True)
class NoFit:
    """Why a job cannot run, with the way that comes closest and the change that helps (None: none known)."""

    choice: Choice
    gpu: Gpu
    message: str
    suggestion: str | None

    def document(self) -> dict[str, Any]:
        """The closest way as JSON, like MemoryPlan's."""
        return _document(self.choice, self.gpu, fits=False, suggestion=self.suggestion)


def choose(request: Request, other_gpus: tuple[Gpu, ...] = ()) -> MemoryPlan | NoFit:
    """The fastest way to run a job that fits (R15 to R19), else why not and the cheapest change that does.

    What the job says is never changed. `other_gpus` are the administrator's other types, for suggestions.
    UserError for settings that no run can combine.
    """
    closest = smallest(request)
    best = fastest(request)
    if best is not None:
        return MemoryPlan(best, request.gpu)
    suggestions = suggest(request, other_gpus)
    advice = ", or ".join(found.text for found in suggestions) or None
    return NoFit(closest, request.gpu, _refusal(request, closest, advice), advice)


def _refusal(request: Request, closest: Choice, advice: str | None) -> str:
    shape, setup = request.shape, closest.setup
    stage = f" with ZeRO-{setup.zero_stage}" if setup.zero_stage else ""
    at_least = "" if request.given.checkpointing is not None else " at least"
    text = f"Method {setup.method}{stage} on this {shape.model_type} model of {shape.parameters / 1e9:.1f}B"
    if not fits(closest.memory, request.gpu.memory_gib):
        allowed = FIT_SHARE * request.gpu.memory_gib
        where = f"each of {setup.gpus} GPUs" if setup.gpus > 1 else "one GPU"
        text += f" parameters needs{at_least} {closest.memory.total / GIB:.1f} GiB on {where} of"
        text += f" {request.gpu.memory_gib:g} GiB, of which {allowed:.1f} GiB may be used"
    else:
        text += f" parameters needs {closest.memory.host / GIB:.0f} GiB of each host for what is offloaded,"
        text += f" which has {request.gpu.host_memory_gib:g} GiB"
    return f"{text}; {advice}." if advice else f"{text}; choose a smaller base model."


def _document(choice: Choice, gpu: Gpu, *, fits: bool, suggestion: str | None) -> dict[str, Any]:
    setup = choice.setup
    return {
        "fits": fits,
        "peakGiB": in_gib(choice.memory.total),
        "limitGiB": round(FIT_SHARE * gpu.memory_gib, 2),
        "gpuMemoryGiB": gpu.memory_gib,
        "gpus": setup.gpus,
        "method": setup.method,
        "breakdown": {name: in_gib(size) for name, size in choice.memory.parts().items()},
        "hostGiB": in_gib(choice.memory.host),
        "chosen": {
            "zeroStage": setup.zero_stage,
            "microBatchTokens": choice.micro_batch_tokens,
            "checkpointing": setup.checkpointing,
            "offload": setup.offload,
        },
        "suggestion": suggestion,
    }
