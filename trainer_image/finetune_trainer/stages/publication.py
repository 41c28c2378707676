"""What is at a job's destination, and what to do about it before and when publishing."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer.contracts import AdapterManifest, Job
from finetune_trainer.errors import UserError
from finetune_trainer.files import file_sha256

MANIFEST = "manifest.json"


def published_manifest(job: Job, destination: Path) -> AdapterManifest | None:
    """The manifest that this job's spec published here before, or None when the place is free.

    UserError when something else is there, or when a file that servers copy is missing or changed; documents
    may be edited.
    """
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return None
    where = job.spec.output.destination
    manifest = _read(where, destination)
    if manifest.spec_digest != job.spec_digest:
        owner = f"{manifest.job.namespace}/{manifest.job.name}"
        text = f"{where} already holds the result of another spec, published by {owner}"
        raise UserError(f"{text}; choose another output.destination or delete it.")
    for file in manifest.files:
        path = destination / file.path
        if not path.is_file() or file_sha256(path) != file.sha256:
            text = f"{where} holds this spec's result, but {file.path} is missing or changed"
            raise UserError(f"{text}; delete the folder to train again.")
    return manifest


def artifact(destination: str, folder: Path, manifest: AdapterManifest) -> dict[str, Any]:
    """The summary of a publication, as the publish stage reports it."""
    size = sum(file.bytes for file in manifest.files) + (folder / MANIFEST).stat().st_size
    return {
        "destination": destination,
        "digest": f"sha256:{file_sha256(folder / MANIFEST)}",
        "files": len(manifest.files),
        "bytes": size,
        "promoted": manifest.promoted,
        "verdict": manifest.verdict,
    }


def _read(where: str, destination: Path) -> AdapterManifest:
    try:
        return AdapterManifest.model_validate_json((destination / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        names = (
            ", ".join(sorted(p.name for p in destination.iterdir())[:5]) if destination.is_dir() else "a file"
        )
        text = f"{where} is not empty and no published result ({names})"
        raise UserError(f"{text}; choose another output.destination or empty it.") from error
