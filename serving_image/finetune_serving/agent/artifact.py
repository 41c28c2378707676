"""Copy a published adapter by digest: every byte that the engine will read was hashed on its way.

Source folders belong to users. So: only named files, no links, no folders, no pickles, and nothing is
trusted but the digest in the server manifest. What a user can mend only by publishing again is refused for
good; what may pass by itself (files still arriving, a full disk, a network file system) is tried again.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import JsonValue, ValidationError

from finetune_serving.adapter.config import CONFIG, parse_config
from finetune_serving.agent.preflight import WEIGHTS, Limits, check_config, check_manifest, check_weights
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import AdapterFile, AdapterManifest, VersionEntry

MANIFEST = "manifest.json"
# Published beside the adapter for people; harmless, never copied.
_IGNORED_SUFFIXES = frozenset({".json", ".md", ".txt", ".jinja", ".html", ".jsonl"})
_MAX_JSON = 1024 * 1024
_CHUNK = 4 * 1024 * 1024
# Opening fails in these ways because of what is published, however often it is tried.
_LASTING = frozenset({errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL})


@dataclass(frozen=True)
class Staged:
    """A verified local copy; `published` is when the source was written (Unix seconds).

    `template_kwargs` are what its prompts pass to the chat template.
    """

    folder: Path
    published: int
    template_kwargs: Mapping[str, JsonValue]


def local_folder(root: Path, digest: str) -> Path:
    """Where the copy of a digest lives: `<root>/<hex digits>`.

    All of them: a manifest that shares the first twelve with another is found in hours, and a copy of it
    would replace the other's files.
    """
    return root / digest.removeprefix("sha256:")


def stage(entry: VersionEntry, sources: Path, adapters: Path, limits: Limits) -> Staged:
    """Verify and copy `entry` below `adapters`; RefusedError with the reason when it cannot be served."""
    target = local_folder(adapters, entry.digest)
    with _opened_folder(entry.source, sources) as source:
        content, published = _read_manifest(source, entry)
        manifest = _parse(content)
        check_manifest(manifest, entry, limits)
        wanted = wanted_files(manifest)
        if not _complete(target, content, wanted):
            _copy(source, target, content, wanted)
    try:
        _check_copy(target, limits)
    except RefusedError as error:
        if not error.retry:
            shutil.rmtree(target, ignore_errors=True)  # a refused version shall not fill the volume
        raise
    return Staged(target, published, manifest.chat_template_kwargs)


def wanted_files(manifest: AdapterManifest) -> tuple[AdapterFile, ...]:
    """The listed files that the engine needs; RefusedError when one is missing, odd or could run code."""
    names = [file.path for file in manifest.files]
    for name in names:
        if name in (CONFIG, WEIGHTS):
            continue
        if "/" in name or "\\" in name or name.startswith(".") or Path(name).suffix not in _IGNORED_SUFFIXES:
            text = f"manifest.json lists {name[:200]!r}; an adapter consists of {CONFIG} and {WEIGHTS}."
            raise RefusedError("InvalidArtifact", text)
    if len(set(names)) != len(names) or not {CONFIG, WEIGHTS} <= set(names):
        raise RefusedError("InvalidArtifact", f"manifest.json must list {CONFIG} and {WEIGHTS}, each once.")
    return tuple(file for file in manifest.files if file.path in (CONFIG, WEIGHTS))


@dataclass(frozen=True)
class _Folder:
    """An open folder: its descriptor, and its address as the user wrote it."""

    descriptor: int
    address: str


@contextmanager
def _opened_folder(address: str, sources: Path) -> Iterator[_Folder]:
    """The mounted folder of `pvc://claim/path`, entered part by part so that no link can lead out of it."""
    scheme, _, rest = address.partition("://")
    claim, *parts = (part for part in rest.split("/") if part) if rest else [""]
    odd = any(part in (".", "..") for part in parts) or "\0" in address
    if scheme != "pvc" or not claim or claim.startswith(".") or rest.startswith("/") or odd:
        raise RefusedError("InvalidArtifact", f"The source {address!r} is not of the form pvc://claim/path.")
    with _reading(address):
        descriptor = os.open(sources / "pvc" / claim, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            with _reading(address):
                inner = _enter(descriptor, part, address)
            os.close(descriptor)
            descriptor = inner
        yield _Folder(descriptor, address)
    finally:
        os.close(descriptor)


def _enter(parent: int, name: str, address: str) -> int:
    """Open the folder `name` in an open one; RefusedError when it is a symbolic link."""
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            text = f"{address} leads through the symbolic link {name}; publish into a plain folder."
            raise RefusedError("InvalidArtifact", text) from None
        raise


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn a failure to read `what`, named by its address, into a refusal: for good or to be tried again."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        text = f"{what} is missing; publish the adapter there."
        raise RefusedError("ArtifactMissing", text, retry=True) from error
    except OSError as error:
        if error.errno in _LASTING:
            text = f"{what} cannot be opened ({error.strerror}); publish plain files in a plain folder."
            raise RefusedError("InvalidArtifact", text) from error
        text = f"{what} cannot be read ({error.strerror}); check the claim and that group 10001 may read it."
        raise RefusedError("LoadFailed", text, retry=True) from error


def _open(folder: _Folder, name: str) -> IO[bytes]:
    """Open a regular file of the folder without following a link."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder.descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        text = f"{folder.address}/{name} is not a regular file; publish plain files."
        raise RefusedError("InvalidArtifact", text)
    return os.fdopen(descriptor, "rb")


def _chunks(folder: _Folder, name: str) -> Iterator[bytes]:
    """The content of a file; a failure to write it elsewhere passes by this function's own errors."""
    with _reading(f"{folder.address}/{name}"), _open(folder, name) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _read_manifest(source: _Folder, entry: VersionEntry) -> tuple[bytes, int]:
    with _reading(f"{entry.source}/{MANIFEST}"), _open(source, MANIFEST) as file:
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
        raise RefusedError.of_document(MANIFEST, error) from error


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


@contextmanager
def _using_volume() -> Iterator[None]:
    """Turn a failure to write or read the pod's own files into a refusal that is tried again."""
    try:
        yield
    except OSError as error:
        text = f"The pod cannot keep a copy of the adapter ({error.strerror}); check the space of its volume."
        raise RefusedError("LoadFailed", text, retry=True) from error


def _copy(source: _Folder, target: Path, manifest: bytes, wanted: tuple[AdapterFile, ...]) -> None:
    """Copy into a temporary folder, then rename: a folder under its final name is always whole."""
    partial = target.with_name(f".{target.name}.partial")
    for left in (partial, target):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with _using_volume():
            partial.mkdir(parents=True)
            for file in wanted:
                _copy_file(source, partial / file.path, file)
            (partial / MANIFEST).write_bytes(manifest)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_file(source: _Folder, target: Path, expected: AdapterFile) -> None:
    hasher, size = hashlib.sha256(), 0
    with target.open("wb") as writer:
        for chunk in _chunks(source, expected.path):
            hasher.update(chunk)
            writer.write(chunk)
            size += len(chunk)
            if size > expected.bytes:
                break
    if size != expected.bytes or hasher.hexdigest() != expected.sha256:
        text = f"{expected.path} differs from what its manifest.json records; publish the adapter again."
        raise RefusedError("DigestMismatch", text)


def _check_copy(folder: Path, limits: Limits) -> None:
    """The checks of config and weights, on the copy that the engine will read."""
    with _using_volume():
        with (folder / CONFIG).open("rb") as file:
            config = parse_config(file.read(_MAX_JSON))
        check_config(config, limits)
        with (folder / WEIGHTS).open("rb") as file:
            check_weights(file, config, limits)
