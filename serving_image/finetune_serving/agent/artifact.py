"""Copy a published adapter by digest: every byte that the engine will read was hashed on its way.

Source folders belong to users. So: only named files, no links, no folders, no pickles, and nothing is
trusted but the digest in the server manifest.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import JsonValue, ValidationError

from finetune_serving.agent.preflight import Limits, check_config, check_manifest
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import AdapterFile, AdapterManifest, VersionEntry

MANIFEST = "manifest.json"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# Published beside the adapter for people; harmless, never copied.
_IGNORED_SUFFIXES = frozenset({".json", ".md", ".txt", ".jinja", ".html", ".jsonl"})
_MAX_JSON = 1024 * 1024
_CHUNK = 4 * 1024 * 1024


@dataclass(frozen=True)
class Staged:
    """A verified local copy; `published` is when the source was written (Unix seconds).

    `template_kwargs` are what its prompts pass to the chat template.
    """

    folder: Path
    published: int
    template_kwargs: Mapping[str, JsonValue]


def local_folder(root: Path, digest: str) -> Path:
    """Where the copy of a digest lives: `<root>/<first 12 hex digits>`."""
    return root / digest.removeprefix("sha256:")[:12]


def stage(entry: VersionEntry, sources: Path, adapters: Path, limits: Limits) -> Staged:
    """Verify and copy `entry` below `adapters`; RefusedError with the reason when it cannot be served."""
    source = source_folder(entry.source, sources)
    content, published = _read_manifest(source, entry)
    manifest = _parse(content)
    check_manifest(manifest, entry, limits)
    wanted = wanted_files(manifest)
    target = local_folder(adapters, entry.digest)
    if not _complete(target, content, wanted):
        _copy(source, target, content, wanted)
    check_config(_config(target), limits)
    return Staged(target, published, manifest.chat_template_kwargs)


def source_folder(source: str, sources: Path) -> Path:
    """The mounted folder of `pvc://claim/path`, inside its claim and reached without any link."""
    scheme, _, rest = source.partition("://")
    claim, _, path = rest.partition("/")
    parts = [part for part in path.split("/") if part]
    if scheme != "pvc" or not claim or claim.startswith(".") or {".", ".."} & set(parts):
        raise RefusedError("InvalidArtifact", f"The source {source!r} is not of the form pvc://claim/path.")
    root = (sources / "pvc" / claim).resolve()
    folder = root.joinpath(*parts)
    if folder.resolve() != folder:
        raise RefusedError(
            "InvalidArtifact", f"{source} leads through a symbolic link; publish into a plain folder."
        )
    return folder


def wanted_files(manifest: AdapterManifest) -> tuple[AdapterFile, ...]:
    """The listed files that the engine needs; RefusedError when one is missing, odd or could run code."""
    names = [file.path for file in manifest.files]
    for name in names:
        if name in (CONFIG, WEIGHTS):
            continue
        if "/" in name or "\\" in name or name.startswith(".") or Path(name).suffix not in _IGNORED_SUFFIXES:
            text = f"manifest.json lists {name!r}; an adapter consists of {CONFIG} and {WEIGHTS}."
            raise RefusedError("InvalidArtifact", text)
    if len(set(names)) != len(names) or not {CONFIG, WEIGHTS} <= set(names):
        raise RefusedError("InvalidArtifact", f"manifest.json must list {CONFIG} and {WEIGHTS}, each once.")
    return tuple(file for file in manifest.files if file.path in (CONFIG, WEIGHTS))


def _read_manifest(source: Path, entry: VersionEntry) -> tuple[bytes, int]:
    path = source / MANIFEST
    with _open(path) as file:
        content = file.read(_MAX_JSON)
        published = int(os.fstat(file.fileno()).st_mtime)
    found = "sha256:" + hashlib.sha256(content).hexdigest()
    if found != entry.digest:
        text = (
            f"{entry.source}/{MANIFEST} has digest {found}, expected {entry.digest}: the folder was "
            "published again after this version was resolved. Deploy the new digest or restore the files."
        )
        raise RefusedError("DigestMismatch", text)
    return content, published


def _parse(content: bytes) -> AdapterManifest:
    try:
        return AdapterManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise RefusedError(
            "InvalidArtifact", f"manifest.json is invalid at {where}: {first['msg']}."
        ) from error


def _open(path: Path) -> IO[bytes]:
    """Open a regular file without following a link in its last part."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        text = f"{path.name} is missing at {path.parent}; publish the adapter there."
        raise RefusedError("ArtifactMissing", text, retry=True) from error
    except OSError as error:
        raise RefusedError("InvalidArtifact", f"{path.name} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedError("InvalidArtifact", f"{path.name} is not a regular file.")
    return os.fdopen(descriptor, "rb")


def _complete(target: Path, manifest: bytes, wanted: tuple[AdapterFile, ...]) -> bool:
    """Whether an earlier process of this pod left a whole copy (the volume outlives containers)."""
    try:
        if (target / MANIFEST).read_bytes() != manifest:
            return False
        return all(_digest(target / file.path) == file.sha256 for file in wanted)
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path, manifest: bytes, wanted: tuple[AdapterFile, ...]) -> None:
    """Copy into a temporary folder, then rename: a folder under its final name is always whole."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for file in wanted:
            _copy_file(source / file.path, partial / file.path, file)
        (partial / MANIFEST).write_bytes(manifest)
        partial.rename(target)
    except OSError as error:
        text = f"The adapter cannot be copied into the pod: {error.strerror}. Check the space of its volume."
        raise RefusedError("LoadFailed", text, retry=True) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_file(source: Path, target: Path, expected: AdapterFile) -> None:
    hasher, size = hashlib.sha256(), 0
    with _open(source) as reader, target.open("wb") as writer:
        while size <= expected.bytes and (chunk := reader.read(_CHUNK)):
            hasher.update(chunk)
            writer.write(chunk)
            size += len(chunk)
    if size != expected.bytes or hasher.hexdigest() != expected.sha256:
        text = f"{expected.path} differs from what its manifest.json records; publish the adapter again."
        raise RefusedError("DigestMismatch", text)


def _config(folder: Path) -> Mapping[str, Any]:
    content = (folder / CONFIG).read_bytes()[:_MAX_JSON]
    try:
        config = json.loads(content)
    except ValueError as error:
        raise RefusedError("InvalidArtifact", f"{CONFIG} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise RefusedError("InvalidArtifact", f"{CONFIG} must hold a JSON object.")
    return config
