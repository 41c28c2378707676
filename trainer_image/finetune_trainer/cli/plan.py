"""`finetune-trainer plan`: whether a job fits its GPUs, from a model's config.json."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError
from finetune_trainer.planning.candidates import Given, Gpu, Request
from finetune_trainer.planning.choose import MemoryPlan, NoFit, choose
from finetune_trainer.planning.defaults import RANK
from finetune_trainer.planning.headers import shape_of_folder
from finetune_trainer.planning.memory import FIT_SHARE

FITS, FITS_NOT = 0, 1
# Without a number of tokens: rows of this many tokens, this many of them per optimizer step and GPU.
_ROW, _ROWS = 1024, 32
_BAR = 40


class _Parser(argparse.ArgumentParser):
    """Exits with the code of a wrong usage that all commands share."""

    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(UserError.exit_code, f"{self.prog}: {message}\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a plan without a job; those left out are chosen."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR|FILE", help="folder or config.json")
    parser.add_argument("--method", choices=("LoRA", "QLoRA", "Full"), default="LoRA")
    text = "one GPU's memory as nvidia-smi shows it (an 80 GB card: 80)"
    parser.add_argument("--gpu-memory-gib", type=_positive_number, required=True, help=text)
    parser.add_argument("--gpus", type=_positive, default=1, help="GPUs per node (default 1)")
    parser.add_argument("--nodes", type=_positive, default=1, help="nodes (default 1)")
    text = f"token slots of a micro-batch, one row (default: chosen for rows of {_ROW} tokens)"
    parser.add_argument("--tokens-per-microbatch", type=_positive, help=text)
    parser.add_argument("--rank", type=_positive, help=f"rank of the adapter (default {RANK})")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), help="default: chosen")
    # Offloading halves the speed and needs a host that is not known here: it is suggested, not chosen.
    parser.add_argument("--offload", choices=("none", "optimizer", "all"), default="none")
    parser.add_argument(
        "--checkpointing", choices=("on", "off"), help="recompute activations; default: chosen"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")


def main(arguments: list[str] | None = None) -> int:
    """Parse, plan, print; the exit code: 0 fits, 1 does not fit, 64 wrong usage or file."""
    parser = _Parser(prog="finetune-trainer plan", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Plan for parsed flags and print the result."""
    try:
        plan = choose(request_of(options))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return UserError.exit_code
    return show(plan, options.output)


def show(plan: MemoryPlan | NoFit, output: str) -> int:
    """Print a plan as text or JSON and return the exit code."""
    text = json.dumps(plan.document(), indent=2) if output == "json" else text_of(plan)
    sys.stdout.write(f"{text}\n")
    return FITS if isinstance(plan, MemoryPlan) else FITS_NOT


def request_of(options: argparse.Namespace) -> Request:
    """The job that the flags describe; UserError for a model that is not understood."""
    given = Given(
        method=options.method,
        rank=options.rank if options.method == "Full" else options.rank or RANK,
        zero_stage=options.zero_stage,
        offload=options.offload,
        checkpointing=None if options.checkpointing is None else options.checkpointing == "on",
    )
    tokens: int | None = options.tokens_per_microbatch
    return Request(
        shape=shape_of_folder(options.model),
        given=given,
        gpu=Gpu(options.gpu_memory_gib),
        longest=tokens or _ROW,
        effective_batch=None if tokens else _ROWS * options.gpus * options.nodes,
        gpus_per_node=options.gpus,
        nodes=options.nodes,
    )


def text_of(plan: MemoryPlan | NoFit) -> str:
    """A table with bars of the card's memory, how the job runs, and what to change if it does not fit."""
    document = plan.document()
    card, chosen = document["gpuMemoryGiB"], document["chosen"]
    sizes = {name: size for name, size in document["breakdown"].items() if size}
    lines = [_row(name, size, card) for name, size in sizes.items()]
    lines += [_row("peak", document["peakGiB"], card)]
    lines += [f"{'limit':<15}{document['limitGiB']:>9.2f} GiB ({FIT_SHARE:.0%} of {card:g} GiB)"]
    if document["hostGiB"]:
        lines += [f"{'each host':<15}{document['hostGiB']:>9.2f} GiB"]
    rows = f"{chosen['microBatchRows']} x {chosen['microBatchTokens'] // chosen['microBatchRows']:,} tokens"
    lines += [
        "",
        f"{document['method']} on {document['gpus']} GPU(s): ZeRO stage {chosen['zeroStage']}, "
        f"offload {chosen['offload']}, checkpointing {'on' if chosen['checkpointing'] else 'off'}, "
        f"micro-batches of {rows}, {chosen['accumulation']} per step",
        "It fits." if isinstance(plan, MemoryPlan) else f"It does not fit. {plan.message}",
    ]
    return "\n".join(lines)


def _row(name: str, size: float, card: float) -> str:
    filled = round(_BAR * size / card)
    bar = "#" * min(filled, _BAR) + ("+" if filled > _BAR else "")
    return f"{name:<15}{size:>9.2f} GiB {bar}".rstrip()


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number
