"""The flags of the commands without a cluster; nothing is imported that would slow `--help` down."""

import argparse
from pathlib import Path

ROW_TOKENS = 1024  # of a row, where nothing is said of rows


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a plan without a job; what is left out is chosen."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR|FILE", help="a model's folder or config.json")
    add("--method", choices=("LoRA", "QLoRA", "Full"), default="LoRA")
    text = "memory of one GPU as nvidia-smi shows it (an 80 GB card: 80)"
    add("--gpu-memory-gib", type=_above_0, required=True, help=text)
    add("--gpus", type=_count, default=1, help="GPUs per node (default 1)")
    add("--nodes", type=_count, default=1, help="nodes (default 1)")
    add("--tokens-per-microbatch", type=_count, help="token slots that one GPU processes at once")
    add("--rank", type=_count, help="rank of the adapter (default: as a job's)")
    add("--zero-stage", type=int, choices=range(4), help="DeepSpeed's stage, method Full")
    # It halves the speed and needs a host that is not known here: it is suggested, not chosen.
    text = "what waits in the host's memory, method Full (default none)"
    add("--offload", choices=("none", "optimizer", "all"), default="none", help=text)
    add("--checkpointing", choices=("on", "off"), help="recompute activations")
    add("--train-tokens", type=_count, help="tokens over all epochs: adds time and cost")
    add("--row-tokens", type=_count, default=ROW_TOKENS, help=f"mean tokens of a row (default {ROW_TOKENS})")
    add("--gpu-peak-tflops", type=_above_0, help="dense bf16 peak of one GPU (H100 and H200: 989)")
    add("--price-per-hour", type=_above_0, help="price of one GPU for an hour")
    add("--output", choices=("text", "json"), default="text")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _above_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number
