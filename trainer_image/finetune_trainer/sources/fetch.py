"""One way to the files of any data source."""

from pathlib import Path

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.sources.buckets import fetch_objects
from finetune_trainer.sources.folders import choose
from finetune_trainer.sources.hub import fetch_dataset
from finetune_trainer.sources.located import Located, list_folder, local_file, of_folder
from finetune_trainer.sources.volumes import resolve_volume_path
from finetune_trainer.sources.web import fetch_url


def locate(spec: DatasetSpec, scratch: Path, dataset: str) -> Located:
    """The files of `train` or `holdout`: one file, or a folder of them; remote ones come below `scratch`.

    UserError names what is wrong with the source, SourceUnavailableError what did not answer.
    """
    match spec.source.partition("://")[0]:
        case "hf":
            return fetch_dataset(spec.source, spec.revision or "", scratch, dataset)
        case "s3" | "gs":
            return fetch_objects(spec.source, scratch, dataset)
        case "https":
            return fetch_url(spec.source, scratch)
    return _on_volume(spec.source, dataset)


def _on_volume(source: str, dataset: str) -> Located:
    path = resolve_volume_path(source)
    if not path.is_dir():
        return Located((local_file(path, source),))
    inner = source.rstrip("/")
    chosen = choose(
        source, lambda name: list_folder(resolve_volume_path(f"{inner}/{name}"), f"{inner}/{name}"), dataset
    )
    files = (local_file(resolve_volume_path(f"{inner}/{name}"), f"{inner}/{name}") for name in chosen.files)
    return of_folder(chosen, files)
