"""Fetch a base model before the engine starts, into the pod or a volume that pods share."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from finetune_serving.fingerprint import COPIES, base_fingerprint
from finetune_serving.logs import configure

logger = logging.getLogger(__name__)
MARKER = ".complete"
# Weights are taken as safetensors only: pickles can run code.
WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
_BUCKETS = ("s3://", "gs://")


@dataclass(frozen=True)
class Base:
    """hf://ORG/NAME at a commit, or a folder s3://BUCKET/PREFIX or gs://BUCKET/PREFIX with a fingerprint."""

    source: str
    revision: str | None = None
    fingerprint: str | None = None

    @property
    def complete(self) -> str:
        """What the marker of a complete copy says."""
        return self.fingerprint or f"{self.source}@{self.revision}"


def fetch_base(base: Base, target: Path, credentials: Path) -> int:
    """Fetch a base into `target`; exit code 0, or 1 with a log line why.

    HF_ENDPOINT (read by huggingface_hub) names another hub. A complete earlier download is kept. Of pods
    that share the folder one fetches and the others wait; a fetch that was cut goes on with what is missing.
    `credentials` is the folder of a mounted Secret, which need not exist.
    """
    configure()
    problem = _not_pinned(base)
    if problem:
        logger.error(problem)
        return 1
    try:
        with _alone(target):
            return _fetched(base, target, credentials)
    except OSError as error:
        logger.error("cannot write to %s: %s", target.parent, error)
        return 1


def _not_pinned(base: Base) -> str:
    if base.source.startswith("hf://"):
        return "" if base.revision else "an hf:// base needs --revision"
    if base.source.startswith(_BUCKETS):
        return "" if base.fingerprint else f"{base.source} needs --fingerprint"
    return (
        f"--source is {base.source!r}; fetch-base takes hf://ORG/NAME, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX"
    )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """While no other pod fetches into the folder; the lock of a pod that died is free."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{target}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another pod that fetches the base model")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetched(base: Base, target: Path, credentials: Path) -> int:
    marker, fields = target / MARKER, {"source": base.source, "pin": base.revision or base.fingerprint}
    if marker.is_file() and marker.read_text() == base.complete:
        logger.info("base model is already there", extra={"fields": fields})
        return 0
    fetch = _from_hub if base.source.startswith("hf://") else _from_bucket
    problem = fetch(base, target, credentials)
    if problem:
        logger.error(problem)
        return 1
    marker.write_text(base.complete)
    logger.info("base model fetched", extra={"fields": fields})
    return 0


def _from_hub(base: Base, target: Path, credentials: Path) -> str:
    """Fetch the files; returns why that was not possible, "" when it was."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    token = credentials / "token"
    try:
        snapshot_download(
            base.source.removeprefix("hf://"),
            revision=base.revision,
            local_dir=target,
            token=token.read_text().strip() if token.is_file() else None,
            allow_patterns=WANTED,
            ignore_patterns=[COPIES],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        text = (str(error) or repr(error)).splitlines()[0]
        return f"cannot fetch {base.source} at {base.revision}: {text}"
    if not any(target.glob("*.safetensors")):
        return f"{base.source} at {base.revision} holds no *.safetensors file; choose a revision that does"
    return ""


def _from_bucket(base: Base, target: Path, credentials: Path) -> str:
    """Copy the objects and compare what they are with the fingerprint; "" or why that was not possible."""
    from finetune_serving.buckets import BucketError, copy_folder

    try:
        copy_folder(base.source, target, credentials, _wanted)
        found = base_fingerprint(target)
    except (BucketError, ValueError) as error:
        return str(error)
    if found != base.fingerprint:
        text = f"{base.source} holds a model with the fingerprint {found}, not the {base.fingerprint} of"
        return (
            f"{text} spec.baseModel.fingerprint; put that one there, or create the server with what is found"
        )
    return ""


def _wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WANTED) and not fnmatch(name, COPIES)
