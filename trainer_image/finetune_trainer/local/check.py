"""`check`: the rules of docs/data-rules.md over local files, before a job is written."""

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune_trainer.base.config import BaseConfig
from finetune_trainer.base.headers import read_fingerprint
from finetune_trainer.base.shape import read_base
from finetune_trainer.chat.options import TemplateOptions
from finetune_trainer.chat.tokenizer import ChatTokenizer, load_tokenizer
from finetune_trainer.data.check import (
    check_corpus,
    check_holdout,
    check_tokenizer,
    measure_holdout,
    template_options,
)
from finetune_trainer.data.findings import Finding, errors
from finetune_trainer.data.holdout import split_reference
from finetune_trainer.data.load import Loaded, Watch, load_files
from finetune_trainer.data.survey import Survey, Target, survey
from finetune_trainer.errors import UserError
from finetune_trainer.local.progress import terminal_progress
from finetune_trainer.local.verdict import FINE, REFUSED
from finetune_trainer.planning.defaults import EPOCHS
from finetune_trainer.report.data import data_summary
from finetune_trainer.report.document import Datasets, Report
from finetune_trainer.report.lengths import measure_lengths
from finetune_trainer.report.mask import first_example
from finetune_trainer.report.terminal import check_json, print_report
from finetune_trainer.sources.located import locate_local


@dataclass(frozen=True)
class _Checked:
    """The training data, perhaps the hold-out, and what was found; `surveyed` is None without sound rows."""

    train: Loaded
    holdout: Loaded | None
    surveyed: Survey | None
    findings: list[Finding]

    @property
    def tokens(self) -> int | None:
        """Tokens of the training rows; None without a tokenizer or sound rows."""
        table = self.surveyed.tokens if self.surveyed else None
        return int(table.tokens.sum()) if table else None


@dataclass(frozen=True)
class _Model:
    """The base model that `--model` names."""

    tokenizer: ChatTokenizer
    target: Target
    options: TemplateOptions


def run(options: argparse.Namespace) -> int:
    """Print what was found; 0 without errors among it, 1 with one; UserError for what holds no rows."""
    with TemporaryDirectory() as scratch, terminal_progress() as watch:
        checked, report = _checked(options, Path(scratch), watch)
    if options.output == "json":
        print(json.dumps(check_json(checked.findings, checked.train.count, checked.tokens)))
    else:
        print_report(report, sys.stdout)
    return REFUSED if errors(checked.findings) else FINE


def _checked(options: argparse.Namespace, scratch: Path, watch: Watch) -> tuple[_Checked, Report]:
    base = _base(options.model) if options.model else None
    train = _load(options.data, "train", scratch, watch)
    holdout = _load(options.holdout, "holdout", scratch, watch) if options.holdout else None
    model = _model(options.model, base, train) if base else None
    checked = _check(train, holdout, model, watch)
    return checked, _report(checked, model.tokenizer if model else None)


def _base(folder: Path) -> tuple[BaseConfig, ChatTokenizer]:
    """What a check needs of a base; UserError for one that cannot be trained."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a base model's folder with --model.")
    config = read_base(folder).config
    read_fingerprint(folder)  # for the files that it refuses: prepare would too
    return config, load_tokenizer(folder)


def _model(folder: Path, base: tuple[BaseConfig, ChatTokenizer], train: Loaded) -> _Model:
    config, tokenizer = base
    options = template_options(tokenizer, train, datetime.now().date())
    target = Target(folder, config.positions, kwargs=options.kwargs)
    return _Model(tokenizer.rendering_with(options.kwargs), target, options)


def _check(
    train: Loaded,
    holdout: Loaded | None,
    model: _Model | None,
    watch: Watch,
) -> _Checked:
    findings = train.findings + (holdout.findings if holdout else [])
    if not len(train.rows):
        return _Checked(train, holdout, None, findings)
    about_tokenizer = check_tokenizer(model.tokenizer, train, model.options) if model else []
    held = [split_reference(row) for row in holdout.rows] if holdout else []
    target = model.target if model and not errors(about_tokenizer) else None
    surveyed = survey(train.rows, held, target, watch)
    findings += about_tokenizer + check_corpus(train, surveyed, EPOCHS)
    if model and surveyed.tokens:
        findings += surveyed.tokens.findings(model.tokenizer, model.target.limit)
    if held:
        findings += check_holdout(train, surveyed, held, measure_holdout(surveyed, held))
    return _Checked(train, holdout, surveyed, findings)


def _load(path: Path, dataset: str, scratch: Path, watch: Watch) -> Loaded:
    located = locate_local(path, dataset)
    return load_files(str(path), located, dataset, scratch / f"{dataset}.rows", watch)


def _report(checked: _Checked, tokenizer: ChatTokenizer | None) -> Report:
    table = checked.surveyed.tokens if checked.surveyed else None
    told = table is not None and len(table.tokens) > 0
    return Report(
        datasets=Datasets(
            train=data_summary(checked.train),
            holdout=data_summary(checked.holdout) if checked.holdout else None,
        ),
        findings=tuple(checked.findings),
        lengths=measure_lengths(table.tokens.tolist(), table.trained.tolist(), table.limit)
        if table and told
        else None,
        example=first_example(tokenizer, checked.train.rows) if tokenizer and told else None,
    )
