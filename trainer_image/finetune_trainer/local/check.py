"""`check`: the rules of docs/data-rules.md over local files, before a job is written."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import fsspec

from finetune_trainer.data.check import compare_holdout, tokenise
from finetune_trainer.data.findings import Finding, errors
from finetune_trainer.data.holdout import split_reference
from finetune_trainer.data.lines import read_lines
from finetune_trainer.data.load import Loaded, load_lines
from finetune_trainer.data.tokenise import ChatTokenizer, Encoded, load_tokenizer
from finetune_trainer.errors import UserError
from finetune_trainer.planning.model import read_positions
from finetune_trainer.report.document import Datasets, DataSummary, Report
from finetune_trainer.report.lengths import measure_lengths
from finetune_trainer.report.mask import first_example
from finetune_trainer.report.terminal import check_json, print_report


@dataclass(frozen=True)
class _Checked:
    """The training data, perhaps the hold-out, and what a tokenizer made of the rows."""

    train: Loaded
    holdout: Loaded | None
    encoded: list[Encoded]
    findings: list[Finding]

    @property
    def tokens(self) -> int | None:
        """Tokens of the training rows; None without a tokenizer or after a structural error."""
        return sum(len(row.ids) for row in self.encoded) if self.encoded else None


def run(options: argparse.Namespace) -> int:
    """Print what was found; 0 when nothing is an error, 1 when something is, 64 when nothing can be read."""
    try:
        tokenizer = load_tokenizer(_folder(options.model)) if options.model else None
        limit = read_positions(options.model) if options.model else 0
        checked = _check(options.data, options.holdout, tokenizer, limit)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.output == "json":
        print(json.dumps(check_json(checked.findings, checked.train.count, checked.tokens)))
    else:
        print_report(_report(options, checked, tokenizer, limit), sys.stdout)
    return 1 if errors(checked.findings) else 0


def _check(data: Path, holdout: Path | None, tokenizer: ChatTokenizer | None, limit: int) -> _Checked:
    train = _load(data, "train")
    held_out = _load(holdout, "holdout") if holdout else None
    findings, encoded = list(train.findings), []
    if tokenizer is not None and train.rows:
        tokenised = tokenise(tokenizer, train.rows, limit)
        encoded, findings = tokenised.rows, findings + tokenised.findings
    if held_out is not None:
        findings += held_out.findings
        if held_out.rows:
            findings += compare_holdout(train.rows, [split_reference(row) for row in held_out.rows])
    return _Checked(train, held_out, encoded, findings)


def _load(path: Path, dataset: str) -> Loaded:
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one JSON-lines file in it.")
    try:
        with fsspec.open(str(path), "rb", compression="infer") as stream:
            return load_lines(str(path), read_lines(stream), dataset)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a file of JSON lines.") from error


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"{path} is no folder; give a base model's folder with --model.")
    return path


def _report(
    options: argparse.Namespace, checked: _Checked, tokenizer: ChatTokenizer | None, limit: int
) -> Report:
    summaries = [
        DataSummary(source=str(path), format=loaded.format, rows=loaded.count, digest=loaded.digest)
        for path, loaded in ((options.data, checked.train), (options.holdout, checked.holdout))
        if loaded is not None
    ]
    tokens, trained = [len(row.ids) for row in checked.encoded], [row.trained for row in checked.encoded]
    return Report(
        datasets=Datasets(train=summaries[0], holdout=summaries[1] if len(summaries) > 1 else None),
        findings=tuple(checked.findings),
        lengths=measure_lengths(tokens, trained, limit) if tokens else None,
        example=first_example(tokenizer, checked.encoded) if tokenizer and checked.encoded else None,
    )
