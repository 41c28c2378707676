"""What prepare leaves for the later stages, with the digests that show whether it is still the same."""

import json
from hashlib import sha256
from typing import Any

from pydantic import Field, ValidationError

from finetune_trainer.contracts import Job
from finetune_trainer.contracts.document import Digest, Document
from finetune_trainer.errors import DatasetChanged
from finetune_trainer.files import file_sha256, write_atomically
from finetune_trainer.workspace import Workspace


class Prepared(Document):
    """dataset/prepared.json: whose data this is, its files' digests and prepare's summary."""

    spec_digest: Digest
    files: dict[str, str] = Field(default_factory=dict)
    summary: dict[str, Any] = Field(default_factory=dict)

    @property
    def training_key(self) -> str:
        """Names what training learns from: a checkpoint of other rows or settings must not be resumed.

        A spec alone does not say: what it leaves out is chosen anew by each prepare, the day of the chat
        template and a fallback method among them. How the work is laid out on devices is not part of it.
        """
        chosen = {key: self.summary.get(key) for key in ("method", "training", "lora")}
        learned = {"spec": self.spec_digest, "files": self.files, **chosen}
        return sha256(json.dumps(learned, sort_keys=True).encode()).hexdigest()


def record_of(workspace: Workspace, job: Job, summary: dict[str, Any]) -> Prepared:
    """The record of the files that were just prepared."""
    holdout = [workspace.holdout] if workspace.holdout.is_file() else []
    beside = [*workspace.rivals_dir.glob("*.jsonl"), *workspace.suites_dir.glob("*.jsonl")]
    files = [workspace.dataset_train, *holdout, *sorted(beside)]
    digests = {path.relative_to(workspace.dataset_dir).as_posix(): file_sha256(path) for path in files}
    return Prepared(spec_digest=job.spec_digest, files=digests, summary=summary)


def write_prepared(workspace: Workspace, job: Job, summary: dict[str, Any]) -> None:
    """Record the prepared files; written last, so that it is only there when they are complete."""
    write_atomically(workspace.prepared, record_of(workspace, job, summary).to_json())


def read_prepared(workspace: Workspace) -> Prepared | None:
    """The record of whatever was prepared in this workspace, or None."""
    try:
        return Prepared.model_validate_json(workspace.prepared.read_bytes())
    except (OSError, ValidationError):
        return None


def check_prepared(workspace: Workspace, job: Job) -> Prepared:
    """The record, once it is the job's own and every file still has its digest; else DatasetChanged."""
    record = read_prepared(workspace)
    if record is None or record.spec_digest != job.spec_digest:
        raise DatasetChanged("The workspace holds no data prepared for this spec; run the job again.")
    if workspace.dataset_train.name not in record.files:
        raise DatasetChanged("The workspace holds data that an older version prepared; run the job again.")
    for name, digest in record.files.items():
        path = workspace.dataset_dir / name
        if not path.is_file() or file_sha256(path) != digest:
            raise DatasetChanged(f"dataset/{name} is not what was checked and prepared; run the job again.")
    return record
