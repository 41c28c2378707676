"""The flags of the commands without a cluster; nothing is imported that would slow `--help` down."""

import argparse
from pathlib import Path

from finetune_trainer.errors import UserError

ROW_TOKENS = 1024  # of a row, where nothing is said of rows
# Flags of `plan` that describe a run without a job, which says these things itself.
_WITHOUT_JOB = (
    "method", "rank", "tokens_per_microbatch", "zero_stage", "offload", "gradient_checkpointing",
    "train_tokens", "row_tokens",
)  # fmt: skip
_WITH_JOB = ("data", "holdout")  # they stand in for the job's sources
_GPU = ("gpu", "gpu_types", "gpu_memory_gib", "gpu_peak_tflops", "price_per_hour")
_WITH_ENDPOINT = ("model", "against", "api_key_env", "judge_key_env", "holdout", "rows")
_WITH_WORK = ("model", "data", "holdout", "gpus", "nodes", *_GPU)  # what a pod knows by itself


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a check of rows."""
    add = parser.add_argument
    text = "the training rows: a file or a folder of JSON lines, JSON, CSV, Parquet or Arrow"
    add("data", type=Path, metavar="DATA", help=text)
    add("--holdout", type=Path, help="the held-out rows")
    add("--model", type=Path, help="a base model's folder: adds the rules about tokens")
    _add_output(parser)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a plan, for a job or without one; what is left out is chosen."""
    add = parser.add_argument
    add("--job", type=Path, metavar="FILE", help="a FineTuneJob in YAML: counts its tokens, plans its run")
    text = "a model's folder or config.json; with --job the folder that its baseModel is in here"
    add("--model", type=Path, metavar="DIR|FILE", help=text)
    _add_stand_ins(parser)
    add_gpu_arguments(parser)
    alone = parser.add_argument_group("without --job").add_argument
    alone("--method", choices=("LoRA", "QLoRA", "Full"), help="default LoRA")
    alone("--tokens-per-microbatch", type=_count, help="token slots that one GPU processes at once")
    alone("--rank", type=_count, help="rank of the adapter (default: as a job's)")
    alone("--zero-stage", type=int, choices=range(4), help="DeepSpeed's ZeRO stage; LoRA and QLoRA: 0 or 3")
    # It halves the speed and needs a host that is not known here: it is suggested, not chosen.
    text = "what waits in the host's memory, method Full (default None)"
    alone("--offload", choices=("None", "Optimizer", "All"), help=text)
    text = "compute activations again instead of keeping them"
    alone("--gradient-checkpointing", choices=("Enabled", "Selective", "Disabled"), help=text)
    alone("--train-tokens", type=_count, help="tokens over all epochs: adds time and cost")
    alone("--row-tokens", type=_count, help=f"mean tokens of a row (default {ROW_TOKENS})")
    _add_output(parser)


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of prepare on a laptop, beside those of the stage."""
    text = "work here, without a cluster, on a FineTuneJob in YAML"
    local = parser.add_argument_group("without a cluster")
    local.add_argument("--work", type=Path, metavar="DIR", help=text)
    text = "the folder that the job's baseModel is in here"
    local.add_argument("--model", type=Path, metavar="DIR", help=text)
    _add_stand_ins(local)
    add_gpu_arguments(local)
    _add_output(local)


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a comparison of two files of scores."""
    add = parser.add_argument
    rows = 'JSON lines of {"id", "score" from 0 to 1, "group" where rows belong together}'
    add("--base", type=Path, metavar="FILE", required=True, help=f"the base model's scores: {rows}")
    add("--tuned", type=Path, metavar="FILE", required=True, help="the tuned model's scores of the same rows")
    text = "the improvement that promotion asks for, a fraction (default 0.05)"
    add("--min-delta", type=_fraction, default=0.05, metavar="FRACTION", help=text)
    _add_output(parser)


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of evaluate on a laptop, beside those of the stage."""
    add = parser.add_argument_group("without a cluster").add_argument
    text = (
        "root of an OpenAI-compatible API, as https://HOST/v1: score what it serves by a FineTuneJob in YAML"
    )
    add("--endpoint", metavar="URL", help=text)
    add("--model", metavar="NAME", help="the model to score there")
    add("--against", metavar="NAME", help="another model there, the one to beat: compares both row by row")
    add("--api-key-env", metavar="VAR", help="environment variable that holds the endpoint's API key")
    add("--judge-key-env", metavar="VAR", help="environment variable that holds the API key of the judge")
    add("--holdout", type=Path, metavar="PATH", help="read these held-out rows instead of the job's source")
    text = "write the model's scores, a line for each graded row, for `compare`"
    add("--rows", type=Path, metavar="FILE", help=text)
    _add_output(parser)


def add_gpu_arguments(parser: argparse._ActionsContainer) -> None:
    """Which GPUs a plan is for."""
    add = parser.add_argument
    add(
        "--gpu",
        metavar="NAME",
        help="a GPU of --gpu-types, or a common one as H200 (default: the job's)",
    )
    text = "the administrator's table in YAML: the chart's values, or its gpuTypes"
    add("--gpu-types", type=Path, metavar="FILE", help=text)
    add("--gpus", type=_count, help="GPUs per node (default 1, or as the job says)")
    add("--nodes", type=_count, help="nodes (default 1, or as the job says)")
    text = "memory of one GPU as nvidia-smi shows it (an 80 GB card: 80)"
    add("--gpu-memory-gib", type=_above_0, help=text)
    add("--gpu-peak-tflops", type=_above_0, help="dense bf16 peak of one GPU (H100 and H200: 989)")
    add("--price-per-hour", type=_above_0, help="price of one GPU for an hour")


def refuse_misplaced(options: argparse.Namespace) -> None:
    """UserError for a flag of `plan` that would do nothing."""
    if options.job:
        _refuse(options, _WITHOUT_JOB, "is said by the job; change it there")
        return
    _refuse(options, _WITH_JOB, "needs --job")
    if not options.gpu:
        _refuse(options, ("gpu_types",), "needs --gpu NAME or --job")


def refuse_without_work(options: argparse.Namespace) -> None:
    """UserError for a flag of `prepare` that would do nothing in a pod."""
    _refuse(options, _WITH_WORK, "needs --work DIR")


def refuse_without_endpoint(options: argparse.Namespace) -> None:
    """UserError for a flag of `evaluate` that would do nothing in a pod."""
    _refuse(options, _WITH_ENDPOINT, "needs --endpoint URL")


def refuse_flags_of_gpus(options: argparse.Namespace, why: str) -> None:
    """UserError for a flag about GPUs where it would do nothing."""
    _refuse(options, _GPU, why)


def _refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} {why}.")


def _add_stand_ins(parser: argparse._ActionsContainer) -> None:
    add = parser.add_argument
    add("--data", type=Path, metavar="PATH", help="read these training rows instead of the job's source")
    add("--holdout", type=Path, metavar="PATH", help="read these held-out rows instead of the job's source")


def _add_output(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--output", choices=("text", "json"), default="text")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction from 0 to 1")
    return number


def _above_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number
