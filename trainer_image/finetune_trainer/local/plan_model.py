"""`plan --model`: memory, time and cost of a run that flags describe, from a config.json alone."""

import argparse
import json
from decimal import Decimal
from typing import Any

from finetune_trainer.base.shape import read_model
from finetune_trainer.contracts import AcceleratorSpec, Method
from finetune_trainer.errors import UserError
from finetune_trainer.local.flags import ROW_TOKENS
from finetune_trainer.local.gpus import accelerator, known_gpus, other_gpus
from finetune_trainer.local.verdict import FINE, REFUSED
from finetune_trainer.planning.choose import MemoryPlan, NoFit, choose
from finetune_trainer.planning.defaults import RANK
from finetune_trainer.planning.layouts import Fixed, Gpu, Workload, gpus_of
from finetune_trainer.planning.lengths import Lengths
from finetune_trainer.planning.memory import FIT_SHARE, Setup
from finetune_trainer.planning.time import Band, TimedRun, estimate, prior, startup_seconds, training_cost
from finetune_trainer.words import plural

_BAR = 40


def plan_model(options: argparse.Namespace) -> int:
    """Print the plan and return the exit code; UserError when the question is wrong."""
    if options.model is None:
        raise UserError("A plan is for a model: give --model DIR, or a FineTuneJob with --job FILE.")
    known = known_gpus(options.gpu_types)
    card = accelerator(options, options.gpu, known)
    work = workload_of_flags(options, card)
    plan = choose(work, gpus_of(other_gpus(card.name, known)))
    expected = _estimate(options, work, plan.layout.setup, card.price_per_hour)
    document = {**plan.document(), "estimate": expected}
    print(json.dumps(document, indent=2) if options.output == "json" else text_of(document, plan))
    return FINE if isinstance(plan, MemoryPlan) else REFUSED


def workload_of_flags(options: argparse.Namespace, card: AcceleratorSpec) -> Workload:
    """The run that the flags describe; UserError for a model that it cannot train or a GPU without memory."""
    if card.memory_gib is None:
        raise UserError("A plan is for a GPU: name it with --gpu NAME, or give --gpu-memory-gib.")
    tokens: int | None = options.tokens_per_microbatch
    method: Method = options.method or "LoRA"
    base = read_model(options.model)
    if method != "Full":
        base.adapted(None)  # refused here as by prepare
    fixed = Fixed(
        method=method,
        rank=options.rank if method == "Full" else options.rank or RANK,
        zero_stage=options.zero_stage,
        offload=options.offload or "None",
        gradient_checkpointing=options.gradient_checkpointing,
        micro_batch_tokens=tokens,
    )
    return Workload(
        shape=base.shape(),
        fixed=fixed,
        gpu=Gpu(card.memory_gib, card.name, card.peak_tflops),
        longest=min(tokens or ROW_TOKENS, ROW_TOKENS),
        gpus_per_node=options.gpus or 1,
        nodes=options.nodes or 1,
    )


def _estimate(
    options: argparse.Namespace, work: Workload, setup: Setup, price: Decimal | None
) -> dict[str, Any] | None:
    """Time and cost, when the tokens are given; UserError when the GPU's peak is not."""
    tokens, row = options.train_tokens, options.row_tokens or ROW_TOKENS
    if tokens is None:
        if options.gpu_peak_tflops or options.price_per_hour or options.row_tokens:
            raise UserError("Time and cost need --train-tokens, the tokens over all epochs.")
        return None
    peak = work.gpu.peak_tflops
    if peak is None:
        raise UserError("Time needs --gpu-peak-tflops, the GPU's dense bf16 peak (989 for an H100 or H200).")
    lengths = Lengths(rows=-(-tokens // row), tokens=tokens, squares=tokens * row, longest=row)
    run = TimedRun(work.shape, setup.method, lengths, epochs=1, gpus=setup.gpus, peak_tflops=peak)
    expected = estimate(run, prior(setup), startup_seconds(work.shape))
    cost = None if price is None else training_cost(expected.hours, setup.gpus, float(price))
    return {
        "tokens": tokens,
        "mfu": round(prior(setup).mfu, 3),
        **_band("hours", expected.hours, 3),
        **_band("cost", cost, 2),
    }


def _band(name: str, band: Band | None, digits: int) -> dict[str, float | None]:
    """The three keys of a band, null where it is not known."""
    values = (band.expected, band.low, band.high) if band else (None, None, None)
    keys = (name, f"{name}Low", f"{name}High")
    return {key: value and round(value, digits) for key, value in zip(keys, values, strict=True)}


def text_of(document: dict[str, Any], plan: MemoryPlan | NoFit) -> str:
    """A table with bars of the card's memory, the layout, time and cost, and what to change if it must."""
    card, chosen, expected = document["gpuMemoryGiB"], document["chosen"], document["estimate"]
    sizes = {name: size for name, size in document["breakdown"].items() if size}
    lines = [_row(name, size, card) for name, size in sizes.items()]
    lines += [_row("peak", document["peakGiB"], card)]
    lines += [f"{'limit':<15}{document['limitGiB']:>9.2f} GiB ({FIT_SHARE:.0%} of {card:g} GiB)"]
    if document["hostGiB"]:
        lines += [f"{'each host':<15}{document['hostGiB']:>9.2f} GiB"]
    lines += [
        "",
        f"{document['method']} on {plural(document['gpus'], 'GPU')}: ZeRO stage {chosen['zeroStage']}, "
        f"offload {chosen['offload']}, gradient checkpointing {chosen['gradientCheckpointing']}, "
        f"micro-batches of {chosen['microBatchTokens']:,} tokens",
        *([_time(expected)] if expected else []),
        _verdict(plan),
    ]
    return "\n".join(lines)


def _verdict(plan: MemoryPlan | NoFit) -> str:
    if isinstance(plan, NoFit):
        return f"It does not fit. {plan.message}"
    change = f" To be safe {plan.suggestion}." if plan.suggestion else ""
    return f"It fits, but within 5 % of the limit.{change}" if plan.tight else "It fits."


def _time(expected: dict[str, Any]) -> str:
    line = (
        f"{expected['hours']:.2f} h ({expected['hoursLow']:.2f} to {expected['hoursHigh']:.2f}) at "
        f"{expected['mfu']:.0%} of the GPUs' peak"
    )
    if expected["cost"] is None:
        return line
    costs = f"{expected['cost']:.2f} ({expected['costLow']:.2f} to {expected['costHigh']:.2f})"
    return f"{line}; {costs} for all GPUs"


def _row(name: str, size: float, card: float) -> str:
    filled = round(_BAR * size / card)
    bar = "#" * min(filled, _BAR) + ("+" if filled > _BAR else "")
    return f"{name:<15}{size:>9.2f} GiB {bar}".rstrip()
