"""Command line of the trainer: a stage with `--job FILE`; `plan`, `check`, `compare` without a cluster."""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from finetune_trainer.errors import StageError, UserError
from finetune_trainer.lean import hide_torch
from finetune_trainer.local.flags import (
    add_check_arguments,
    add_compare_arguments,
    add_evaluate_arguments,
    add_plan_arguments,
    add_prepare_arguments,
    refuse_without_endpoint,
    refuse_without_work,
)

STAGES = {
    "prepare": "fetch and pin the base, check and tokenise the data, plan the training (CPU)",
    "baseline": "score the base model on the hold-out",
    "grade-base": "score the base by what came of the programs that it wrote",
    "train": "train under torchrun, resumable",
    "evaluate": "score the tuned model on the same hold-out",
    "grade-tuned": "score the tuned model by what came of its programs",
    "publish": "copy the result and its manifest to the destination",
}
COMMANDS_WITHOUT_TORCH = {"prepare", "check", "plan", "compare"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code of docs/contracts.md."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except StageError as error:  # of a command without a cluster; a stage reports its own
        print(error, file=sys.stderr)
        return UserError.exit_code


class _Parser(argparse.ArgumentParser):
    """Ends with 64 on wrong usage, as on any other wrong input."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UserError.exit_code, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="finetune-trainer", description=__doc__)
    commands = parser.add_subparsers(dest="stage", required=True, metavar="COMMAND")
    for name, text in STAGES.items():
        command = _with_paths(commands.add_parser(name, help=text, description=text))
        command.set_defaults(command=_STAGE_COMMANDS.get(name, _run_stage))
        if name == "prepare":
            add_prepare_arguments(command)
        if name == "evaluate":
            add_evaluate_arguments(command)
    text = "report the stored result of the stage that the job file names, and run nothing"
    _with_paths(commands.add_parser("reemit", help=text, description=text)).set_defaults(command=_reemit)
    text = "say whether a run fits the GPUs, how, how long and for how much (no cluster, no GPU)"
    add_plan_arguments(command := commands.add_parser("plan", help=text, description=text))
    command.set_defaults(command=_run_locally)
    text = "check local rows by the rules of docs/data-rules.md (no cluster, no GPU)"
    add_check_arguments(command := commands.add_parser("check", help=text, description=text))
    command.set_defaults(command=_run_locally)
    text = "say whether a tuned model is better than its base, by the scores of both (no cluster, no GPU)"
    add_compare_arguments(command := commands.add_parser("compare", help=text, description=text))
    command.set_defaults(command=_run_locally)
    text = "print the JSON Schemas of job, result, manifest and report"
    commands.add_parser("schemas", help=text, description=text).set_defaults(command=_schemas)
    return parser


def _with_paths(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    job, workspace = Path("/etc/finetune/job/job.json"), Path("/workspace")
    parser.add_argument("--job", type=Path, default=job, help=f"the stage's input (default {job})")
    parser.add_argument("--workspace", type=Path, default=workspace, help=f"the volume (default {workspace})")
    return parser


# Imports happen inside the commands: torch and transformers take seconds, --help must not.
def _run_stage(options: argparse.Namespace) -> int:
    from finetune_trainer.results import run_stage

    function = import_module(f"finetune_trainer.stages.{options.stage}").run
    return run_stage(options.stage, options.job, options.workspace, function)


def _run_prepare(options: argparse.Namespace) -> int:
    if options.work is not None:
        return _run_locally(options)
    refuse_without_work(options)
    return _run_stage(options)


def _run_evaluate(options: argparse.Namespace) -> int:
    if options.endpoint is not None:
        return _run_locally(options)
    refuse_without_endpoint(options)
    return _run_stage(options)


def _run_locally(options: argparse.Namespace) -> int:
    return int(import_module(f"finetune_trainer.local.{options.stage}").run(options))


def _run_code(options: argparse.Namespace) -> int:
    from finetune_trainer.results import run_stage

    asked_by = {"grade-base": "baseline", "grade-tuned": "evaluate"}[options.stage]
    function = import_module(f"finetune_trainer.stages.{asked_by}").grade_programs
    return run_stage(options.stage, options.job, options.workspace, function)


def _run_gang(options: argparse.Namespace) -> int:
    from finetune_trainer.launch.gang import main as run_gang

    return run_gang(options.job, options.workspace)


def _reemit(options: argparse.Namespace) -> int:
    from finetune_trainer.results import reemit

    return reemit(options.job, options.workspace)


def _schemas(_: argparse.Namespace) -> int:
    from finetune_trainer.contracts import json_schemas

    print(json.dumps(json_schemas(), indent=2))
    return 0


_STAGE_COMMANDS = {
    "prepare": _run_prepare,
    "train": _run_gang,
    "evaluate": _run_evaluate,
    "grade-base": _run_code,
    "grade-tuned": _run_code,
}


def entry() -> NoReturn:
    """The command `finetune-trainer`, and `python -m finetune_trainer`."""
    if set(sys.argv[1:2]) & COMMANDS_WITHOUT_TORCH:
        hide_torch()
    sys.exit(main())


if __name__ == "__main__":
    entry()
