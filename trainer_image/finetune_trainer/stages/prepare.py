"""prepare: fetch and pin the base, check and tokenise the data, plan the training. CPU only."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_trainer.base.files import CARD
from finetune_trainer.base.shape import read_base
from finetune_trainer.contracts import AdapterManifest, Job, Result
from finetune_trainer.data.corpus.related import Related
from finetune_trainer.data.holdout import HoldoutRow
from finetune_trainer.data.load import Watch, load
from finetune_trainer.data.prepared import read_prepared, record_of, write_prepared
from finetune_trainer.data.questions.suites import load_suite
from finetune_trainer.errors import UserError
from finetune_trainer.evaluation.card import license_of
from finetune_trainer.files import write_lines
from finetune_trainer.progress import ProgressServer, watching
from finetune_trainer.report.store import write_reports
from finetune_trainer.results import succeeded
from finetune_trainer.sources.hub import fetch_base
from finetune_trainer.stages.examine import (
    Base,
    Data,
    Examined,
    RefusedError,
    check_request,
    checked_fingerprint,
    examine,
    refuse_unsound,
)
from finetune_trainer.stages.publication import artifact, published_manifest
from finetune_trainer.stages.questions import Questions
from finetune_trainer.trained_rows import writing_rows
from finetune_trainer.training.checkpoints import newest_marker
from finetune_trainer.words import plural
from finetune_trainer.workspace import Workspace, destination_dir

_log = logging.getLogger(__name__)


def run(job: Job, workspace: Workspace) -> Result:
    """Prepare everything that needs no accelerator, or adopt what this spec already published."""
    with ProgressServer("prepare") as progress:
        check_request(job)
        destination = destination_dir(job)
        manifest = published_manifest(job, destination)
        _claim(job, workspace)
        data = _load_data(job, workspace, watching(progress))
        if manifest is not None:
            _check_same_data(job, workspace, manifest, data)
            return _adopt(job, manifest, destination)
        _check_writable(job, destination)
        try:
            return _prepare(job, workspace, data, progress)
        except RefusedError as refused:
            write_reports(workspace, refused.report)
            raise UserError(f"{refused} The report is in the workspace at dataset/report.html.") from refused


def _claim(job: Job, workspace: Workspace) -> None:
    """A workspace holds the run of one spec: checkpoints of another must never be resumed."""
    record = read_prepared(workspace)
    if record is not None and record.spec_digest != job.spec_digest:
        _log.info("the workspace held another run; its checkpoints, output and results are removed")
        for folder in workspace.of_one_run:
            shutil.rmtree(folder, ignore_errors=True)


def _load_data(job: Job, workspace: Workspace, watch: Watch) -> Data:
    scratch = workspace.dataset_dir / "source"
    evaluation = job.spec.evaluation
    train = load(job.spec.dataset, scratch / "train", "train", watch)
    holdout = load(evaluation.dataset, scratch / "holdout", "holdout", watch) if evaluation else None
    asked = evaluation.suites if evaluation else ()
    suites = {suite.name: load_suite(suite, scratch / "suites" / suite.name, watch) for suite in asked}
    return Data(train, holdout, job.spec.dataset.severities or {}, suites)


def _check_writable(job: Job, destination: Path) -> None:
    nearest = next(parent for parent in destination.parents if parent.is_dir())
    if not os.access(nearest, os.W_OK | os.X_OK):
        text = f"{job.spec.output.destination} cannot be written by the pod's user"
        raise UserError(f"{text}; make the volume writable for its group (fsGroup).")


def _prepare(job: Job, workspace: Workspace, data: Data, progress: ProgressServer) -> Result:
    discard_rows(workspace)
    refuse_unsound(job, data)
    progress.update(message="fetching and fingerprinting the base model")
    folder = _base(job, workspace)
    base = Base(folder, read_base(folder))
    digest = checked_fingerprint(job, folder)
    examined = examine_and_write(job, workspace, data, base, watching(progress))
    write_reports(workspace, examined.report)
    summary = {"adopted": False, **_base_facts(job, folder, digest), **examined.summary(job)}
    key = record_of(workspace, job, summary).training_key
    saved_by = sharded_by(workspace, key, _processes(job))
    summary["warnings"] += lacking_space(workspace, summary["checkpointBytes"], saved_by)
    write_prepared(workspace, job, summary)
    return succeeded(job, _sentence(job, summary), summary)


def _processes(job: Job) -> int | None:
    """How many will train; None for a single pod on the CPU that chooses it itself (launch/processes.py)."""
    asked = job.spec.resources
    chosen_there = asked.nodes == 1 and not asked.gpus_per_node and asked.processes_per_node is None
    return None if chosen_there else asked.processes


def sharded_by(workspace: Workspace, key: str, processes: int | None) -> int | None:
    """How many processes saved the shards that training must rewrite for `processes`.

    None where it need not, and where it is not known yet how many will train.
    """
    if processes is None:
        return None
    marker = newest_marker(workspace.checkpoints, key)
    saved = marker.sharding if marker and marker.sharding.zero_stage else None
    return saved.processes if saved and saved.processes != processes else None


def lacking_space(workspace: Workspace, checkpoint: int, saved_by: int | None = None) -> list[str]:
    """A warning when the volume cannot hold the checkpoints (of so many bytes) that training needs.

    Two are kept. A third is needed to rewrite the shards of `saved_by` processes (training/resuming.py).
    """
    held = sum(path.stat().st_size for path in workspace.checkpoints.rglob("*") if path.is_file())
    free, count = shutil.disk_usage(workspace.root).free + held, 3 if saved_by else 2
    if count * checkpoint <= free:
        return []
    sizes = f"{count * checkpoint / 2**30:.1f} GiB, the workspace has {free / 2**30:.1f} GiB"
    if saved_by is None:
        return [f"Two checkpoints take {sizes} for them; raise spec.workspace.size."]
    text = f"The checkpoint was saved by {saved_by} processes; rewriting it takes {sizes} for checkpoints"
    return [f"{text}; use as many processes as before, or a larger volume."]


def discard_rows(workspace: Workspace) -> None:
    """Remove what an earlier prepare wrote: nothing of it may stay beside rows that are refused."""
    for path in (workspace.prepared, workspace.dataset_train, workspace.holdout, workspace.related):
        path.unlink(missing_ok=True)
    for folder in (workspace.rivals_dir, workspace.suites_dir):
        shutil.rmtree(folder, ignore_errors=True)


def examine_and_write(job: Job, workspace: Workspace, data: Data, base: Base, watch: Watch) -> Examined:
    """The rows as later stages read them; RefusedError without any."""
    with writing_rows(workspace.dataset_train) as write:
        examined = examine(job, data, base, watch, write)
    if job.spec.evaluation:
        _write_questions(workspace, examined.questions)
        _write_rows(workspace.related, examined.related)
    return examined


def _write_questions(workspace: Workspace, questions: Questions) -> None:
    _write_rows(workspace.holdout, questions.holdout)
    groups = {workspace.rivals_dir: questions.rivals, workspace.suites_dir: questions.suites}
    for folder, group in groups.items():
        for name, rows in group.items():
            _write_rows(folder / f"{name}.jsonl", rows)


def _write_rows(path: Path, rows: Sequence[HoldoutRow] | Sequence[Related]) -> None:
    write_lines(path, (json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows))


def _base(job: Job, workspace: Workspace) -> Path:
    spec = job.spec.base_model
    if spec.revision is not None:
        _log.info("fetching the base model %s at %s", spec.source, spec.revision)
        fetch_base(spec.source, spec.revision, workspace.fetched_base)
    return workspace.base_dir(job)


def _base_facts(job: Job, folder: Path, base: str) -> dict[str, Any]:
    spec = job.spec.base_model
    name = spec.source.removeprefix("hf://") if spec.revision else spec.source.rstrip("/").rsplit("/", 1)[-1]
    facts = {"baseName": name, "baseRevision": spec.revision, "baseFingerprint": base}
    return {**facts, "baseLicense": named} if (named := _license(folder)) else facts


def _license(base: Path) -> str | None:
    """What the base's model card says, where it has one."""
    card = base / CARD
    return license_of(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None


def _sentence(job: Job, summary: dict[str, Any]) -> str:
    steps, held_out = summary["training"]["steps"], summary["holdoutRows"]
    rows = f"{plural(summary['rows'], 'row')} with {plural(summary['tokens'], 'token')}"
    fallback = "" if summary["method"] == job.spec.method else " LoRA does not fit, so QLoRA is used."
    return f"Ready for {plural(steps, 'step')}: {rows}; the hold-out has {plural(held_out, 'row')}.{fallback}"


def _check_same_data(job: Job, workspace: Workspace, manifest: AdapterManifest, data: Data) -> None:
    """A volume's content can change under an equal spec; then the publication is not this job's result."""
    where = f"{job.spec.output.destination} already holds a result of this spec"
    digests = data.train.digest, data.holdout.digest if data.holdout else None
    judged_on = {name: loaded.digest for name, loaded in data.suites.items()}
    if (manifest.data.train, manifest.data.holdout) != digests or _suites(manifest) != judged_on:
        raise UserError(f"{where}, made from other data; choose another output.destination or delete it.")
    # A pinned hf revision cannot change, so only a volume is looked at again.
    pinned = job.spec.base_model.revision is not None
    if not pinned and checked_fingerprint(job, workspace.base_dir(job)) != manifest.base_model.fingerprint:
        raise UserError(f"{where}, made from another base; choose another output.destination or delete it.")


def _suites(manifest: AdapterManifest) -> dict[str, str]:
    suites = manifest.training.get("prepare", {}).get("suites", {})
    return {name: suite["digest"] for name, suite in suites.items()}


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
