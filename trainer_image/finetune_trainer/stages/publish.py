"""publish: copy what was trained to the destination, with a manifest and documents that say what it is."""

import json
import logging
import os
import shutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from finetune_trainer.base.files import is_description, is_weight
from finetune_trainer.contracts import (
    AdapterManifest,
    DataDigests,
    Job,
    ManifestBase,
    ManifestFile,
    ManifestJob,
    ManifestLora,
    PublishSpec,
    Result,
)
from finetune_trainer.data.prepared import Prepared, check_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.evaluation.documents import write_documents
from finetune_trainer.exporting.export import Published, export
from finetune_trainer.files import file_sha256, write_atomically
from finetune_trainer.progress import ProgressServer
from finetune_trainer.results import latest_evaluation, latest_succeeded, succeeded
from finetune_trainer.stages.publication import MANIFEST, artifact, published_manifest
from finetune_trainer.workspace import Workspace, destination_dir, on_destination

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_VERSIONS = ("torch", "transformers", "trl", "peft", "deepspeed", "accelerate")
_log = logging.getLogger(__name__)


def run(job: Job, workspace: Workspace) -> Result:
    """Publish once; a rerun finds its own publication and reports it again.

    What is published is then sent to where the job says; where that fails, the message says so.
    """
    destination = destination_dir(job)
    manifest = published_manifest(job, destination)
    if manifest is None or manifest.job.uid != job.uid:
        _refuse_foreign(job, manifest)
        with ProgressServer("publish") as progress:
            progress.update(message="copying to the destination")
            manifest = _publish(job, workspace, destination)
    summary = artifact(job.spec.output.destination, destination, manifest)
    failures = export(Published(job, workspace, manifest, summary["digest"]))
    return succeeded(job, " ".join([_sentence(manifest, job), *failures]), summary)


def _refuse_foreign(job: Job, manifest: AdapterManifest | None) -> None:
    if manifest is not None:
        owner = f"{manifest.job.namespace}/{manifest.job.name}"
        text = f"{job.spec.output.destination} was published by {owner} while this job ran"
        raise UserError(f"{text}; choose another output.destination or delete it.")


def _publish(job: Job, workspace: Workspace, destination: Path) -> AdapterManifest:
    prepared = check_prepared(workspace, job)
    # Hidden and beside the destination: on the same volume, so that the rename is one step.
    partial = destination.parent / f".{destination.name}.{job.uid}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _copy(job, workspace.output_dir(job), partial)
        manifest = _manifest(job, workspace, prepared, partial)
        write_documents(job, workspace, manifest, partial)
        manifest = manifest.model_copy(update={"documents": _documents(partial, manifest)})
        write_atomically(partial / MANIFEST, manifest.to_json())
        _sync(partial)
        partial.replace(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def publish_candidate(job: Job, workspace: Workspace, source: str) -> str:
    """Put the adapter at `source`, unpromoted, for the server that scores it; returns its digest.

    Nobody looks there before the digest is told, so the folder is filled in place.
    """
    folder = on_destination(source)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _copy(job, workspace.output_dir(job), folder)
    manifest = _manifest(job, workspace, check_prepared(workspace, job), folder)
    write_atomically(folder / MANIFEST, manifest.to_json())
    _sync(folder)
    return f"sha256:{file_sha256(folder / MANIFEST)}"


def withdraw_candidate(source: str) -> None:
    """Remove what was put there: servers have their own copy, and the last one was just asked."""
    shutil.rmtree(on_destination(source), ignore_errors=True)


def _copy(job: Job, source: Path, target: Path) -> None:
    for name in _file_names(job, source):
        _log.info("copying %s", name)
        shutil.copyfile(source / name, target / name)
    if job.spec.trains_adapter:
        _name_base(job, target / "adapter_config.json")


def _file_names(job: Job, source: Path) -> list[str]:
    """The files that belong to the result: weights, configuration and, of a model, its tokenizer."""
    there = sorted(path.name for path in source.iterdir() if path.is_file()) if source.is_dir() else []
    adapter = job.spec.trains_adapter
    names = (
        list(_ADAPTER_FILES)
        if adapter
        else [name for name in there if is_description(name) or is_weight(name)]
    )
    missing = [name for name in (names if adapter else ["config.json"]) if name not in there]
    if not any(name.endswith(".safetensors") for name in names):
        missing.append("*.safetensors")
    if missing:
        text = f"output/{source.name} lacks {', '.join(missing)} (it holds {', '.join(there) or 'nothing'})"
        raise UserError(f"{text}, so there is nothing complete to publish; run the job again.")
    return names


def _name_base(job: Job, path: Path) -> None:
    """PEFT records where the base was in the pod, which means nothing elsewhere: name what the user named."""
    config = json.loads(path.read_bytes())
    base = job.spec.base_model
    config["base_model_name_or_path"] = base.source.removeprefix("hf://")
    config["revision"] = base.revision
    write_atomically(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _manifest(job: Job, workspace: Workspace, prepared: Prepared, folder: Path) -> AdapterManifest:
    summary, publish = prepared.summary, job.publish or PublishSpec(promoted=False)
    trained, evaluated = latest_succeeded(workspace, "train"), latest_evaluation(workspace)
    lora = summary["lora"]
    return AdapterManifest(
        kind="Adapter" if job.spec.trains_adapter else "Model",
        spec_digest=job.spec_digest,
        method=summary["method"],
        base_model=ManifestBase(
            source=job.spec.base_model.source,
            revision=job.spec.base_model.revision,
            fingerprint=summary["baseFingerprint"],
        ),
        adapter=ManifestLora(rank=lora["rank"], alpha=lora["alpha"]) if lora else None,
        files=_described(folder, folder.iterdir()),
        data=DataDigests(train=summary["datasetDigest"], holdout=summary["holdoutDigest"]),
        chat_template_kwargs=summary["chatTemplateKwargs"],
        training={"prepare": summary, "train": trained.summary if trained else {}},
        scores=evaluated.summary if evaluated and job.spec.evaluation else None,
        verdict=publish.verdict,
        promoted=publish.promoted,
        accepted=publish.accepted,
        versions=_versions(),
        job=ManifestJob(namespace=job.namespace, name=job.name, uid=job.uid),
    )


def _documents(folder: Path, manifest: AdapterManifest) -> tuple[ManifestFile, ...]:
    """Everything there that no server copies."""
    served = {folder / file.path for file in manifest.files}
    return _described(folder, (path for path in folder.rglob("*") if path.is_file() and path not in served))


def _described(folder: Path, paths: Iterable[Path]) -> tuple[ManifestFile, ...]:
    return tuple(
        ManifestFile(
            path=path.relative_to(folder).as_posix(), sha256=file_sha256(path), bytes=path.stat().st_size
        )
        for path in sorted(paths)
    )


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _sync(folder: Path) -> None:
    """Everything must be on disk before the rename makes it visible."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sentence(manifest: AdapterManifest, job: Job) -> str:
    what = "The adapter" if manifest.kind == "Adapter" else "The model"
    state = "promoted" if manifest.promoted else "not promoted"
    where, verdict = job.spec.output.destination, manifest.verdict or "not evaluated"
    return f"{what} is published at {where}, {state} ({verdict})."
