"""A FineTuneJob on a laptop: its rows and base model, from where the job says or from files that stand in."""

import argparse
from pathlib import Path

from finetune_trainer.base.config import read_base_config
from finetune_trainer.base.headers import Tensor
from finetune_trainer.base.shape import BaseModel, read_base
from finetune_trainer.base.trainable import refuse_untrainable
from finetune_trainer.contracts import AcceleratorSpec, DatasetSpec, EvaluationSpec, GpuSpec, Job
from finetune_trainer.data.load import Loaded, Watch, load, load_files
from finetune_trainer.data.questions.suites import load_suite
from finetune_trainer.errors import UserError
from finetune_trainer.local.flags import refuse_flags_of_gpus
from finetune_trainer.local.gpus import accelerator, known_gpus, other_gpus
from finetune_trainer.local.manifest import job_of, read_manifest
from finetune_trainer.sources.hub import describe_base, fetch_base, fetch_tokenizer
from finetune_trainer.sources.located import locate_local
from finetune_trainer.stages.examine import Base, Data, check_request, checked_fingerprint, compares_meaning

_OF_VOLUMES = ("pvc://", "configmap://")


def read_local_job(options: argparse.Namespace) -> Job:
    """The job of `--job` on the GPUs that the flags name, else on those that it asks for; UserError."""
    manifest = read_manifest(options.job)
    spec = manifest.get("spec")
    resources = dict((spec.get("resources") if isinstance(spec, dict) else None) or {})
    for flag, field in (("gpus", "gpusPerNode"), ("nodes", "nodes")):
        if (given := getattr(options, flag)) is not None:
            resources[field] = given
    if isinstance(spec, dict):
        manifest = {**manifest, "spec": {**spec, "resources": resources}}
    card, others = _gpus(options, resources)
    job = job_of(manifest, str(options.job), accelerator=card, other_gpus=others)
    check_request(job)
    _check_currency(job)
    return job


def _check_currency(job: Job) -> None:
    card, budget = job.accelerator, job.budget
    if card and budget and card.currency not in (None, budget.currency):
        text = f"spec.budget is in {budget.currency}, the price of {card.name} in {card.currency}"
        raise UserError(f"{text}; give the limit in {card.currency}.")


def _gpus(
    options: argparse.Namespace, resources: dict[str, object]
) -> tuple[AcceleratorSpec | None, tuple[GpuSpec, ...]]:
    """What flags and tables say of the job's GPU, None without one, and of the others."""
    if resources.get("gpusPerNode", 1) == 0:
        refuse_flags_of_gpus(options, "is for a job on GPUs; add --gpus N, or set resources.gpusPerNode")
        return None, ()
    name = options.gpu or (str(resources["gpuType"]) if resources.get("gpuType") else None)
    if name is None and options.gpu_memory_gib is None:
        refuse_flags_of_gpus(options, "needs --gpu NAME, or resources.gpuType in the job")
        return None, ()
    known = known_gpus(options.gpu_types)
    card = accelerator(options, name, known, spot=resources.get("spot") is True)
    return card, other_gpus(card.name, known)


def load_local_data(job: Job, options: argparse.Namespace, scratch: Path, watch: Watch) -> Data:
    """The rows of both data sets; UserError when they are neither within reach nor stood in for.

    Suites in the cluster are left out: they say nothing of memory, and prepare looks at them before a GPU.
    """
    evaluation = job.spec.evaluation
    if options.holdout and evaluation is None:
        raise UserError("--holdout stands in for evaluation.dataset, which the job does not have; remove it.")
    train = _load(job.spec.dataset, options.data, "train", scratch, watch)
    holdout = _load(evaluation.dataset, options.holdout, "holdout", scratch, watch) if evaluation else None
    within_reach = [suite for suite in (evaluation.suites if evaluation else ()) if _in_reach(suite.dataset)]
    suites = {suite.name: load_suite(suite, scratch / "suites" / suite.name, watch) for suite in within_reach}
    return Data(train, holdout, job.spec.dataset.severities or {}, suites)


def load_local_holdout(
    evaluation: EvaluationSpec, options: argparse.Namespace, scratch: Path, watch: Watch
) -> Loaded:
    """The hold-out alone; UserError when it is neither within reach nor stood in for."""
    return _load(evaluation.dataset, options.holdout, "holdout", scratch, watch)


def find_local_base(job: Job, options: argparse.Namespace, scratch: Path, watch: Watch) -> Base:
    """Configuration, headers and tokenizer of the base; no weights are fetched from the Hub."""
    spec, folder = job.spec.base_model, options.model
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give the base model's folder with --model.")
        base = Base(folder, read_base(folder))
        checked_fingerprint(job, folder)
        return base
    if spec.revision is None:
        raise UserError(f"baseModel {_beyond(spec.source)}; give its folder with --model.")
    watch(f"fetching {spec.source}", 0, None)
    if compares_meaning(job):
        fetch_base(spec.source, spec.revision, scratch)
        return Base(scratch, read_base(scratch))
    fetch_tokenizer(spec.source, spec.revision, scratch)
    return Base(scratch, read_remote_base(spec.source, spec.revision, scratch))


def read_remote_base(source: str, revision: str, scratch: Path) -> BaseModel:
    """The base of `hf://org/name` at a pinned revision, by its config.json and the headers of its weights.

    UserError for one that cannot be trained, SourceUnavailableError when the Hub cannot be reached; the
    config is left in `scratch`.
    """
    headers = {name: Tensor(*entry) for name, entry in describe_base(source, revision, scratch).items()}
    base = BaseModel(read_base_config(scratch), headers)
    refuse_untrainable(base.config, headers)
    return base


def _load(spec: DatasetSpec, stand_in: Path | None, dataset: str, scratch: Path, watch: Watch) -> Loaded:
    if stand_in is not None:
        located = locate_local(stand_in, dataset)
        return load_files(str(stand_in), located, dataset, scratch / f"{dataset}.rows", watch)
    if not _in_reach(spec):
        flag = "--data" if dataset == "train" else "--holdout"
        raise UserError(f"{dataset} data {_beyond(spec.source)}; give the rows with {flag}.")
    return load(spec, scratch / dataset, dataset, watch)


def _in_reach(spec: DatasetSpec) -> bool:
    return not spec.source.startswith(_OF_VOLUMES)


def _beyond(source: str) -> str:
    return f"{source} is in the cluster, where this machine does not look"
