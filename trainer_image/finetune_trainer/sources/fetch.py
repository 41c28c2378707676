"""One way to the files of any data source."""

import os
from pathlib import Path

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.errors import UserError
from finetune_trainer.sources.buckets import fetch_objects
from finetune_trainer.sources.hub import fetch_dataset
from finetune_trainer.sources.located import DataFile, Located, choose
from finetune_trainer.sources.volumes import resolve_volume_path
from finetune_trainer.sources.web import fetch_url


def locate(spec: DatasetSpec, scratch: Path) -> Located:
    """The files of a data set, which is one file or all files of a folder; remote ones come below `scratch`.

    UserError names what is wrong with the source, SourceUnavailableError what did not answer.
    """
    match spec.source.partition("://")[0]:
        case "hf":
            return fetch_dataset(spec.source, spec.revision or "", scratch)
        case "s3" | "gs":
            return fetch_objects(spec.source, scratch)
        case "https":
            return fetch_url(spec.source, scratch)
    return _on_volume(spec.source)


def _on_volume(source: str) -> Located:
    path = resolve_volume_path(source)
    if not path.is_dir():
        return Located((_file(source, path),))
    inner = source.rstrip("/")
    try:
        entries = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(path)]
    except PermissionError as error:
        raise UserError(
            f"{source} cannot be listed; make it readable for the pod's user or group."
        ) from error
    names, unread = choose(source, (name for name in entries if not name.startswith("..")))
    files = (_file(f"{inner}/{name}", resolve_volume_path(f"{inner}/{name}")) for name in names)
    return Located(tuple(files), unread)


def _file(source: str, path: Path) -> DataFile:
    if not path.is_file():
        raise UserError(f"{source} is no regular file (a pipe or a device?); store the data as a file.")
    return DataFile(path.name, path, path.stat().st_size)
