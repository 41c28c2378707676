"""prepare: fetch and pin the base, check and tokenise the data, plan the training. CPU only."""

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_trainer.contracts import AdapterManifest, Job, Result
from finetune_trainer.data.check import (
    check_corpus,
    check_graders,
    check_holdout,
    check_paraphrases,
    check_prompts,
    check_tokenizer,
)
from finetune_trainer.data.findings import Finding, Override, errors, override, warnings
from finetune_trainer.data.holdout import HoldoutRow, split_reference
from finetune_trainer.data.load import Loaded, Watch, load
from finetune_trainer.data.prepared import read_prepared, write_prepared
from finetune_trainer.data.severities import check_names
from finetune_trainer.data.survey import Survey, Target, survey
from finetune_trainer.data.tokenise import ChatTokenizer, load_tokenizer
from finetune_trainer.data.tokens import TokenTable
from finetune_trainer.errors import UserError
from finetune_trainer.files import replaced, write_atomically, write_lines
from finetune_trainer.fingerprint import fingerprint
from finetune_trainer.planning.choose import NoFit
from finetune_trainer.planning.defaults import Plan, effective_batch, length_limit, make_plan
from finetune_trainer.planning.lengths import measure
from finetune_trainer.planning.model import read_positions
from finetune_trainer.progress import ProgressServer, watching
from finetune_trainer.report.data import data_summary
from finetune_trainer.report.document import Datasets, JobName, Report
from finetune_trainer.report.duplicates import count_duplicates
from finetune_trainer.report.html import report_html
from finetune_trainer.report.lengths import measure_lengths
from finetune_trainer.report.mask import first_example
from finetune_trainer.results import succeeded
from finetune_trainer.sources.hub import fetch_base
from finetune_trainer.stages.outlook import look_ahead, report_parts, summarise
from finetune_trainer.stages.publication import artifact, published_manifest
from finetune_trainer.workspace import Workspace, destination_dir

_MESSAGES = 3  # of findings in the outcome; the report has all
_WARNINGS = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Data:
    """What was read; `severities` are those that the job gives to rules."""

    train: Loaded
    holdout: Loaded | None
    severities: Mapping[str, Override]

    def digests(self) -> tuple[str, str | None]:
        return self.train.digest, self.holdout.digest if self.holdout else None

    def findings(self) -> list[Finding]:
        return self.overridden(self.train.findings + (self.holdout.findings if self.holdout else []))

    def overridden(self, findings: Iterable[Finding]) -> list[Finding]:
        return override(findings, self.severities)


def run(job: Job, workspace: Workspace) -> Result:
    """Prepare everything that needs no accelerator, or adopt what this spec already published."""
    with ProgressServer("prepare") as progress:
        _check_request(job)
        destination = destination_dir(job)
        manifest = published_manifest(job, destination)
        _claim(job, workspace)
        data = _load_data(job, workspace, watching(progress))
        if manifest is None:
            _check_writable(job, destination)
            return _prepare(job, workspace, data, progress)
        _check_same_data(job, workspace, manifest, data)
        return _adopt(job, manifest, destination)


def _check_request(job: Job) -> None:
    """What needs no data to be wrong fails before anything is fetched."""
    training = job.spec.training
    check_names(job.spec.dataset.severities or {})
    effective_batch(training.effective_batch_size if training else None, job.spec.resources.processes)
    if job.spec.evaluation:
        check_graders(job.spec.evaluation.graders)


def _claim(job: Job, workspace: Workspace) -> None:
    """A workspace holds the run of one spec: checkpoints of another must never be resumed."""
    record = read_prepared(workspace)
    if record is not None and record.spec_digest != job.spec_digest:
        _log.info("the workspace held another run; its checkpoints, output and results are removed")
        for folder in workspace.of_one_run:
            shutil.rmtree(folder, ignore_errors=True)


def _load_data(job: Job, workspace: Workspace, watch: Watch) -> _Data:
    scratch = workspace.dataset_dir / "source"
    evaluation = job.spec.evaluation
    train = load(job.spec.dataset, scratch / "train", "train", watch)
    holdout = load(evaluation.dataset, scratch / "holdout", "holdout", watch) if evaluation else None
    return _Data(train, holdout, job.spec.dataset.severities or {})


def _check_writable(job: Job, destination: Path) -> None:
    nearest = next(parent for parent in destination.parents if parent.is_dir())
    if not os.access(nearest, os.W_OK | os.X_OK):
        text = f"{job.spec.output.destination} cannot be written by the pod's user"
        raise UserError(f"{text}; make the volume writable for its group (fsGroup).")


def _prepare(job: Job, workspace: Workspace, data: _Data, progress: ProgressServer) -> Result:
    _refuse_errors(job, workspace, data, data.findings())
    _refuse_nothing(data)
    progress.update(message="fetching and fingerprinting the base model")
    base = _base(job, workspace)
    digest = _checked_fingerprint(job, base)
    tokenizer, positions = load_tokenizer(base), read_positions(base)
    findings = data.findings() + data.overridden(check_tokenizer(tokenizer, data.train))
    _refuse_errors(job, workspace, data, findings)
    holdout = [split_reference(row) for row in data.holdout.rows] if data.holdout else []
    limit = length_limit(job.spec, positions)
    surveyed, table = _tokenise(workspace, data, holdout, Target(base, limit), watching(progress))
    plan = make_plan(job.spec, len(table.kept), int(table.kept.max(initial=0)), positions)
    found = [*table.findings(tokenizer), *check_corpus(data.train, surveyed, plan.epochs)]
    found += _about_holdout(job, data, surveyed, holdout, base, tokenizer, positions)
    findings += data.overridden(found)
    _refuse_errors(job, workspace, data, findings)
    lengths = measure(table.kept.tolist())
    outlook = look_ahead(job, base, plan, lengths, len(holdout))
    summary = _summary(job, digest, data, table, plan, findings)
    summary |= {"attendedTokens": round(lengths.attended, 1), **summarise(job, outlook)}
    report = _full_report(_report(job, data, findings), data, surveyed, table, tokenizer, plan)
    report = report.model_copy(update=report_parts(job, outlook))
    if isinstance(outlook.memory, NoFit):
        _write_reports(workspace, report)
        raise UserError(f"{outlook.memory.gpu.name}: {outlook.memory.message}")
    _write(job, workspace, holdout, report, summary)
    return succeeded(job, _sentence(summary), summary)


def _refuse_nothing(data: _Data) -> None:
    """Rules that a job ignores can leave no row over."""
    for loaded, field in ((data.train, "dataset"), (data.holdout, "evaluation.dataset")):
        if loaded is not None and not len(loaded.rows):
            raise UserError(f"{field}: no row is sound; correct the rows that the report lists.")


def _tokenise(
    workspace: Workspace, data: _Data, holdout: list[HoldoutRow], target: Target, watch: Watch
) -> tuple[Survey, TokenTable]:
    """Compare and tokenise all rows, and write them for training."""
    workspace.prepared.unlink(missing_ok=True)  # it must not vouch for files that are being replaced
    with replaced(workspace.dataset_train) as file:
        surveyed = survey(data.train.rows, holdout, replace(target, lines=file.write), watch)
    if surveyed.tokens is None:
        raise AssertionError("a survey with a target has tokens")
    return surveyed, surveyed.tokens


def _about_holdout(
    job: Job,
    data: _Data,
    surveyed: Survey,
    holdout: list[HoldoutRow],
    base: Path,
    tokenizer: ChatTokenizer,
    positions: int,
) -> list[Finding]:
    if job.spec.evaluation is None:
        return []
    found = check_prompts(tokenizer, holdout, positions - job.spec.evaluation.output_tokens)
    found += check_holdout(data.train, surveyed, holdout, job.spec.evaluation.graders)
    if data.severities.get("leak_semantic", "Ignore") != "Ignore":
        found += check_paraphrases(data.train, surveyed, holdout, base, tokenizer)
    return found


def _base(job: Job, workspace: Workspace) -> Path:
    spec = job.spec.base_model
    if spec.revision is not None:
        _log.info("fetching the base model %s at %s", spec.source, spec.revision)
        fetch_base(spec.source, spec.revision, workspace.fetched_base)
    return workspace.base_dir(job)


def _checked_fingerprint(job: Job, base: Path) -> str:
    spec = job.spec.base_model
    try:
        digest = fingerprint(base)
    except (ValueError, NotADirectoryError) as error:
        raise UserError(
            f"{spec.source} is no usable base model: {error}; give a transformers folder."
        ) from error
    if spec.fingerprint not in (None, digest):
        text = (
            f"{spec.source} has the fingerprint {digest}, baseModel.fingerprint asks for {spec.fingerprint}"
        )
        raise UserError(f"{text}; correct one of them.")
    return digest


def _refuse_errors(job: Job, workspace: Workspace, data: _Data, findings: Sequence[Finding]) -> None:
    """UserError, after the report is written, when a finding is an error."""
    wrong = errors(findings)
    if not wrong:
        return
    _write_reports(workspace, _report(job, data, findings))
    shown = " ".join(f"[{item.dataset}] {item.message}" for item in wrong[:_MESSAGES])
    more = f" And {len(wrong) - _MESSAGES} more findings." if len(wrong) > _MESSAGES else ""
    raise UserError(f"{shown}{more} The report is in the workspace at dataset/report.html.")


def _summary(
    job: Job, base: str, data: _Data, table: TokenTable, plan: Plan, findings: Sequence[Finding]
) -> dict[str, Any]:
    train_digest, holdout_digest = data.digests()
    return {
        "adopted": False,
        **_base_facts(job, base),
        "rows": len(table.kept),
        "holdoutRows": len(data.holdout.rows) if data.holdout else 0,
        "tokens": int(table.kept.sum()),
        "trainedTokens": int(table.trained.sum()),
        "datasetDigest": train_digest,
        "holdoutDigest": holdout_digest,
        "training": plan.training(),
        "lora": plan.lora(),
        "warnings": _warnings(findings),
        **({"overrides": dict(data.severities)} if data.severities else {}),
    }


def _warnings(findings: Sequence[Finding]) -> list[str]:
    return [f"{item.dataset}: {item.message}" for item in warnings(findings)[:_WARNINGS]]


def _base_facts(job: Job, base: str) -> dict[str, Any]:
    spec = job.spec.base_model
    name = spec.source.removeprefix("hf://") if spec.revision else spec.source.rstrip("/").rsplit("/", 1)[-1]
    return {"baseName": name, "baseRevision": spec.revision, "baseFingerprint": base}


def _sentence(summary: dict[str, Any]) -> str:
    steps, held_out = summary["training"]["steps"], summary["holdoutRows"]
    ready = f"{summary['rows']} rows with {summary['tokens']} tokens are ready for {steps} steps"
    return f"{ready}; the hold-out has {held_out} rows."


def _write(
    job: Job, workspace: Workspace, holdout: Sequence[HoldoutRow], report: Report, summary: dict[str, Any]
) -> None:
    workspace.holdout.unlink(missing_ok=True)
    if job.spec.evaluation:
        lines = (json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in holdout)
        write_lines(workspace.holdout, lines)
    _write_reports(workspace, report)
    write_prepared(workspace, job, summary)


def _write_reports(workspace: Workspace, report: Report) -> None:
    write_atomically(workspace.report_json, report.to_json())
    write_atomically(workspace.report_html, report_html(report))


def _report(job: Job, data: _Data, findings: Sequence[Finding]) -> Report:
    """What is known without a base model."""
    train = data_summary(job.spec.dataset.source, data.train)
    evaluation = job.spec.evaluation
    holdout = data_summary(evaluation.dataset.source, data.holdout) if evaluation and data.holdout else None
    return Report(
        job=JobName(namespace=job.namespace, name=job.name),
        datasets=Datasets(train=train, holdout=holdout),
        findings=tuple(findings),
        overrides=dict(data.severities),
    )


def _full_report(
    report: Report, data: _Data, surveyed: Survey, table: TokenTable, tokenizer: ChatTokenizer, plan: Plan
) -> Report:
    """The report of accepted data with lengths, duplicates, its first row token by token, and settings."""
    counted = {"tokens": int(table.kept.sum()), "trained_tokens": int(table.trained.sum())}
    train = report.datasets.train.model_copy(update=counted)
    return report.model_copy(
        update={
            "datasets": report.datasets.model_copy(update={"train": train}),
            "lengths": measure_lengths(table.kept.tolist(), table.trained.tolist(), plan.max_length),
            "duplicates": count_duplicates(surveyed.facts, surveyed.near),
            "example": first_example(tokenizer, data.train.rows),
            "training": plan.training(),
            "lora": plan.lora(),
        }
    )


def _check_same_data(job: Job, workspace: Workspace, manifest: AdapterManifest, data: _Data) -> None:
    """A volume's content can change under an equal spec; then the publication is not this job's result."""
    where = f"{job.spec.output.destination} already holds a result of this spec"
    if (manifest.data.train, manifest.data.holdout) != data.digests():
        raise UserError(f"{where}, made from other data; choose another output.destination or delete it.")
    # A pinned hf revision cannot change, so only a volume is looked at again.
    pinned = job.spec.base_model.revision is not None
    if not pinned and _checked_fingerprint(job, workspace.base_dir(job)) != manifest.base_model.fingerprint:
        raise UserError(f"{where}, made from another base; choose another output.destination or delete it.")


def _adopt(job: Job, manifest: AdapterManifest, destination: Path) -> Result:
    prepared = manifest.training.get("prepare", {})
    summary = {
        **prepared,
        "adopted": True,
        "artifact": artifact(job.spec.output.destination, destination, manifest),
        "scores": manifest.scores,
    }
    text = f"{job.spec.output.destination} already holds this spec's result; it is used as it is."
    return succeeded(job, text, summary)
