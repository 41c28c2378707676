"""Download an hf:// base model into a folder, once per pod, before the engine starts."""

import logging
from pathlib import Path

from finetune_serving.fingerprint import COPIES
from finetune_serving.logs import configure

logger = logging.getLogger(__name__)
MARKER = ".complete"
# Weights are taken as safetensors only: pickles can run code.
WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]


def fetch_base(source: str, revision: str, target: Path, token_file: Path) -> int:
    """Fetch `hf://ORG/NAME` at a pinned revision into `target`; exit code 0, or 1 with a log line why.

    HF_ENDPOINT (read by huggingface_hub) names another hub. A complete earlier download is kept, so a
    restart of the container costs nothing.
    """
    configure()
    if not source.startswith("hf://"):
        logger.error("--source is %r; fetch-base takes hf://ORG/NAME", source)
        return 1
    marker = target / MARKER
    if marker.is_file() and marker.read_text() == f"{source}@{revision}":
        logger.info("base model is already there", extra={"fields": {"source": source, "revision": revision}})
        return 0
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
        logger.error(
            "cannot fetch %s at %s: %s", source, revision, (str(error) or repr(error)).splitlines()[0]
        )
        return 1
    if not any(target.glob("*.safetensors")):
        logger.error("%s at %s holds no *.safetensors file; choose a revision that does", source, revision)
        return 1
    marker.write_text(f"{source}@{revision}")
    logger.info("base model fetched", extra={"fields": {"source": source, "revision": revision}})
    return 0
