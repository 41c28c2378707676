"""How often a hold-out has judged tuned models: each run that was compared on it leaves one file.

The files are beside the destination, as the base's answers are. A run has one name for its file, so that a
repeated attempt counts once and runs at the same time do not lose each other's.
"""

import logging
from pathlib import Path

from finetune_trainer.contracts import Job
from finetune_trainer.files import write_atomically
from finetune_trainer.workspace import destination_dir

_log = logging.getLogger(__name__)


def earlier_uses(job: Job, holdout_digest: str) -> int | None:
    """How many other runs were judged on this hold-out; None when the place cannot be read."""
    try:
        return len([name for name in _names(job, holdout_digest) if name != job.uid])
    except OSError as error:
        _log.warning("the uses of the hold-out cannot be counted: %s", error.strerror)
        return None


def record_use(job: Job, holdout_digest: str) -> int | None:
    """Note that this run was judged, and say how many were, this one included; None as above."""
    try:
        write_atomically(_folder(job, holdout_digest) / job.uid, f"{job.namespace}/{job.name}\n")
    except OSError as error:
        _log.warning("the use of the hold-out is not noted beside the destination: %s", error.strerror)
        return None
    earlier = earlier_uses(job, holdout_digest)
    return None if earlier is None else earlier + 1


def _names(job: Job, holdout_digest: str) -> list[str]:
    folder = _folder(job, holdout_digest)
    # A file under a hidden name is one that is being written.
    return [path.name for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []


def _folder(job: Job, holdout_digest: str) -> Path:
    return destination_dir(job).parent / ".finetune-holdouts" / holdout_digest.removeprefix("sha256:")
