"""Make a folder of PEFT's `save_pretrained` an artifact: check it as a server would, write its manifest."""

import hashlib
import logging
from pathlib import Path

from finetune_serving.adapter.base import read_base
from finetune_serving.adapter.config import CONFIG, parse_config
from finetune_serving.agent.preflight import WEIGHTS, Limits, check_config, check_weights
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import AdapterBase, AdapterFile, AdapterManifest, AdapterShape
from finetune_serving.fingerprint import base_fingerprint
from finetune_serving.logs import configure

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def import_adapter(folder: Path, base: Path) -> int:
    """Check an adapter against a base's folder and write its manifest; exit code 0, or 1 with a log line why.

    The adapter counts as not promoted: nobody has compared it with its base. A manifest that is there
    already is never changed, since servers know it by its digest.
    """
    configure()
    try:
        content = manifest_of(folder, base).model_dump_json(by_alias=True, indent=1).encode()
        written = _write_once(folder / MANIFEST, content)
    except RefusedError as error:
        logger.error("the adapter cannot be served (%s): %s", error.reason, error.message)
        return 1
    except (OSError, ValueError) as error:
        logger.error("the adapter cannot be imported: %s", error)
        return 1
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    logger.info(
        "manifest written" if written else "manifest is already there",
        extra={"fields": {"folder": str(folder), "digest": digest}},
    )
    return 0


def manifest_of(folder: Path, base: Path) -> AdapterManifest:
    """The manifest of an adapter that fits the base; RefusedError when a server would refuse it."""
    config = parse_config((folder / CONFIG).read_bytes())
    # Whether the rank is too large is for each server to say.
    limits = Limits(base_fingerprint(base), config.largest_rank, base_modules=read_base(base))
    check_config(config, limits)
    with (folder / WEIGHTS).open("rb") as file:
        check_weights(file, config, limits)
    return AdapterManifest(
        schema_version=1,
        kind="Adapter",
        base_model=AdapterBase(fingerprint=limits.base_fingerprint),
        adapter=AdapterShape(rank=config.largest_rank),
        files=tuple(_described(folder / name) for name in (CONFIG, WEIGHTS)),
        promoted=False,
    )


def _described(path: Path) -> AdapterFile:
    with path.open("rb") as file:
        return AdapterFile(
            path=path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size
        )


def _write_once(path: Path, content: bytes) -> bool:
    """Whether the file was written; ValueError when another one is there."""
    if path.exists():
        if path.read_bytes() != content:
            raise ValueError(f"{path} is there and says something else; import from a copy of the folder.")
        return False
    path.write_bytes(content)
    return True
