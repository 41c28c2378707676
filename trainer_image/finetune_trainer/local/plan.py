"""`plan`: does a model fit the GPUs, how, how long and for how much, from its config.json alone."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError
from finetune_trainer.planning.choose import MemoryPlan, Request, choose
from finetune_trainer.planning.estimate import Estimate, Gpu, estimate
from finetune_trainer.planning.shape import ModelShape, read_shape

_BAR = 40
_NAMES = {
    "base": "weights that stay",
    "state": "trained weights, gradients, optimizer",
    "spike": "setting up the optimizer",
    "activations": "activations",
    "loss": "output head and loss",
    "context": "CUDA and NCCL",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `plan`; what is left out is chosen."""
    parser.add_argument("--model", type=Path, required=True, help="a model folder or its config.json")
    parser.add_argument("--method", choices=("LoRA", "QLoRA", "Full"), default="LoRA")
    parser.add_argument("--gpu-memory-gib", type=_positive, required=True, help="memory of one GPU")
    parser.add_argument("--gpus", type=_count, default=1, help="GPUs over all nodes (default 1)")
    parser.add_argument("--tokens-per-microbatch", type=_count, help="token slots of one process")
    parser.add_argument("--rank", type=_count, default=16, help="rank of the adapter (default 16)")
    parser.add_argument("--zero-stage", type=int, choices=range(4), help="DeepSpeed's stage, method Full")
    parser.add_argument("--offload", choices=("none", "optimizer", "all"), help="to the host, method Full")
    parser.add_argument("--checkpointing", choices=("on", "off"), help="recompute activations")
    parser.add_argument("--train-tokens", type=_count, help="tokens over all epochs: adds time and cost")
    parser.add_argument("--row-tokens", type=_count, default=1024, help="mean tokens of a row (default 1024)")
    parser.add_argument("--gpu-peak-tflops", type=_positive, help="dense bf16 peak of one GPU")
    parser.add_argument("--price-per-hour", type=_positive, help="price of one GPU for an hour")
    parser.add_argument("--output", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    """Print the plan; 0 when it fits, 1 when it does not, 64 when the question is wrong."""
    try:
        shape = read_shape(options.model)
        plan = choose(shape, _request(options))
        expected = _estimate(options, shape, plan)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(document(plan, expected)) if options.output == "json" else text(plan, expected))
    return 0 if plan.fits else 1


def document(plan: MemoryPlan, expected: Estimate | None) -> dict[str, Any]:
    """The plan as JSON, with `estimate` null unless it was asked for."""
    return {**plan.to_json(), "estimate": expected.to_json() if expected else None}


def text(plan: MemoryPlan, expected: Estimate | None) -> str:
    """The plan for a terminal: a bar per part, the layout, time and cost, and what to change."""
    planned = plan.to_json()
    largest = max(planned["breakdown"].values()) or 1
    parts = [
        f"  {_NAMES[name]:<38} {size:8.1f} GiB  {'█' * round(_BAR * size / largest)}"
        for name, size in planned["breakdown"].items()
        if size
    ]
    verdict = "fits" if plan.fits else "does not fit"
    head = (
        f"{plan.request.method} on {plan.request.gpus} x {plan.request.gpu_gib:g} GiB {verdict}: "
        f"{planned['peakGiB']:.1f} GiB per GPU, of which {planned['limitGiB']:.1f} may be planned (90 %)"
    )
    setup = plan.setup
    kept = "recomputed" if setup.checkpointing else "kept"
    layout = (
        f"  {setup.tokens} tokens per micro-batch, activations {kept}, ZeRO stage {setup.zero_stage}, "
        f"offload {setup.offload}"
    )
    host = [f"  {planned['hostGiB']:.0f} GiB of host memory for the offload"] if plan.host else []
    timed = [_time(expected)] if expected else []
    return "\n".join([head, *parts, layout, *host, *timed, *([plan.suggestion] if plan.suggestion else [])])


def _time(expected: Estimate) -> str:
    numbers = expected.to_json()
    line = (
        f"  {numbers['hours']:.2f} h ({numbers['hoursLow']:.2f} to {numbers['hoursHigh']:.2f}) at "
        f"{expected.mfu:.0%} of the GPUs' peak"
    )
    if numbers["cost"] is None:
        return line
    return (
        f"{line}; {numbers['cost']:.2f} ({numbers['costLow']:.2f} to {numbers['costHigh']:.2f}) for all GPUs"
    )


def _estimate(options: argparse.Namespace, shape: ModelShape, plan: MemoryPlan) -> Estimate | None:
    """Time and cost, when the tokens are given; UserError when the GPU's peak is not."""
    if options.train_tokens is None:
        if options.gpu_peak_tflops or options.price_per_hour:
            raise UserError("Time and cost need --train-tokens, the tokens over all epochs.")
        return None
    if options.gpu_peak_tflops is None:
        raise UserError("Time needs --gpu-peak-tflops, the GPU's dense bf16 peak (989 for an H100 or H200).")
    gpu = Gpu(options.gpu_peak_tflops, options.price_per_hour)
    return estimate(shape, plan.setup, gpu, options.train_tokens, options.row_tokens)


def _request(options: argparse.Namespace) -> Request:
    if options.method != "Full" and (options.zero_stage or options.offload not in (None, "none")):
        raise UserError("--zero-stage and --offload belong to --method Full: an adapter is not sharded.")
    if options.offload not in (None, "none") and options.zero_stage in (0, 1):
        raise UserError("--offload needs --zero-stage 2 or 3.")
    if options.offload == "all" and options.zero_stage == 2:
        raise UserError("--offload all needs --zero-stage 3.")
    tokens = options.tokens_per_microbatch
    return Request(
        method=options.method,
        gpus=options.gpus,
        gpu_gib=options.gpu_memory_gib,
        rank=options.rank,
        tokens=tokens,
        checkpointing=None if options.checkpointing is None else options.checkpointing == "on",
        zero_stage=options.zero_stage,
        offload=options.offload,
    )


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number
