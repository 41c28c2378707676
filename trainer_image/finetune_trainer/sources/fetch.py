"""One way to open any data source."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import fsspec

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.errors import UserError
from finetune_trainer.sources.hub import fetch_file
from finetune_trainer.sources.volumes import resolve_volume_path


@contextmanager
def open_data(spec: DatasetSpec, scratch: Path) -> Iterator[IO[bytes]]:
    """A data file's bytes, uncompressed (.gz, .bz2, .xz by name); hf files are fetched below `scratch`."""
    path = _locate(spec, scratch)
    if path.is_dir():
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
        raise UserError(f"{spec.source} is a folder that holds {names}; name one JSON-lines file in it.")
    try:
        with fsspec.open(str(path), "rb", compression="infer") as stream:
            yield stream
    except PermissionError as error:
        text = (
            f"{spec.source} cannot be read (permission denied); make it readable for the pod's user or group."
        )
        raise UserError(text) from error


def _locate(spec: DatasetSpec, scratch: Path) -> Path:
    if spec.revision is not None:
        return fetch_file(spec.source, spec.revision, scratch)
    return resolve_volume_path(spec.source)
