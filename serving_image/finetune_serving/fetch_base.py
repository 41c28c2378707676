"""Download an hf:// base model before the engine starts, into the pod or a volume that pods share."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_serving.fingerprint import COPIES
from finetune_serving.logs import configure

logger = logging.getLogger(__name__)
MARKER = ".complete"
# Weights are taken as safetensors only: pickles can run code.
WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]


def fetch_base(source: str, revision: str, target: Path, token_file: Path) -> int:
    """Fetch `hf://ORG/NAME` at a pinned revision into `target`; exit code 0, or 1 with a log line why.

    HF_ENDPOINT (read by huggingface_hub) names another hub. A complete earlier download is kept. Of pods
    that share the folder one fetches and the others wait; the rest of a fetch that was cut is taken up.
    """
    configure()
    if not source.startswith("hf://"):
        logger.error("--source is %r; fetch-base takes hf://ORG/NAME", source)
        return 1
    try:
        with _alone(target):
            return _fetched(source, revision, target, token_file)
    except OSError as error:
        logger.error("cannot write to %s: %s", target.parent, error)
        return 1


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


def _fetched(source: str, revision: str, target: Path, token_file: Path) -> int:
    marker, complete = target / MARKER, f"{source}@{revision}"
    if marker.is_file() and marker.read_text() == complete:
        logger.info("base model is already there", extra={"fields": {"source": source, "revision": revision}})
        return 0
    problem = _download(source, revision, target, token_file)
    if problem:
        logger.error(problem)
        return 1
    marker.write_text(complete)
    logger.info("base model fetched", extra={"fields": {"source": source, "revision": revision}})
    return 0


def _download(source: str, revision: str, target: Path, token_file: Path) -> str:
    """Fetch the files; returns why that was not possible, "" when it was."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    token = token_file.read_text().strip() if token_file.is_file() else None
    try:
        snapshot_download(
            source.removeprefix("hf://"),
            revision=revision,
            local_dir=target,
            token=token,
            allow_patterns=WANTED,
            ignore_patterns=[COPIES],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        return f"cannot fetch {source} at {revision}: {(str(error) or repr(error)).splitlines()[0]}"
    if not any(target.glob("*.safetensors")):
        return f"{source} at {revision} holds no *.safetensors file; choose a revision that does"
    return ""
