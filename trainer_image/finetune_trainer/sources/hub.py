"""hf:// sources: pinned files of a Hub repository (address by HF_ENDPOINT, default the public Hub)."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from finetune_trainer.base.files import CARD, DESCRIPTION_FILES, is_description, is_weight
from finetune_trainer.errors import SourceUnavailableError, UserError
from finetune_trainer.files import write_atomically
from finetune_trainer.sources.credentials import Purpose, credential
from finetune_trainer.sources.folders import choose, some
from finetune_trainer.sources.located import DataFile, Located, of_folder, top_entry

# In the target: which base is complete, and which is being fetched (a restart goes on with that one).
_FETCHED = ".fetched"
_FETCHING = ".fetching"


def fetch_base(source: str, revision: str, target: Path) -> None:
    """Fetch `hf://org/name` without pickles and second copies into `target`; a finished fetch is kept."""
    repo = source.removeprefix("hf://").strip("/")
    done, begun, wanted = target / _FETCHED, target / _FETCHING, f"{repo}@{revision}"
    if _says(done, wanted):
        return
    if not _says(begun, wanted):
        shutil.rmtree(target, ignore_errors=True)  # another base: none of its files may stay
        write_atomically(begun, wanted)
    with _explained(source, revision):
        hub = HfApi(_endpoint(), read_token("base-model"))
        names = _wanted_files(source, hub.list_repo_files(repo, revision=revision))
        _download(repo, revision, target, names)
    write_atomically(done, wanted)


def fetch_tokenizer(source: str, revision: str, target: Path) -> None:
    """Fetch what `hf://org/name` says of itself into `target`: configuration and tokenizer, no weights."""
    repo = source.removeprefix("hf://").strip("/")
    with _explained(source, revision):
        _download(repo, revision, target, list(DESCRIPTION_FILES))


def _download(repo: str, revision: str, target: Path, names: list[str]) -> None:
    snapshot_download(
        repo,
        revision=revision,
        local_dir=target,
        allow_patterns=names,
        token=read_token("base-model"),
        endpoint=_endpoint(),
    )


def fetch_dataset(source: str, revision: str, target: Path, dataset: str) -> Located:
    """Fetch `train` or `holdout` of `hf://datasets/org/name/path`, a file or a folder, below `target`."""
    parts = source.removeprefix("hf://datasets/").rstrip("/").split("/", 2)
    if not source.startswith("hf://datasets/") or len(parts) < 3:
        raise UserError(f"{source} is not understood; write hf://datasets/org/name/path/to/file.jsonl.")
    repo, path = "/".join(parts[:2]), parts[2]
    with _explained(source, revision):
        try:
            return Located((_fetch_data_file(repo, path, revision, target),))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return _fetch_data_folder(source, repo, path, revision, target, dataset)


def _fetch_data_folder(
    source: str, repo: str, path: str, revision: str, target: Path, dataset: str
) -> Located:
    hub = HfApi(_endpoint(), read_token("dataset"))
    names = hub.list_repo_files(repo, repo_type="dataset", revision=revision)
    if not _entries(names, f"{path}/"):
        text = f"{source} does not exist at revision {revision}; the repository holds {some(names)}."
        raise UserError(text)
    chosen = choose(source, lambda inner: _entries(names, f"{path}/{inner}"), dataset)
    files = (_fetch_data_file(repo, f"{path}/{name}", revision, target) for name in chosen.files)
    return of_folder(chosen, files)


def _entries(names: list[str], folder: str) -> set[str]:
    """What lies directly in a folder (its path with `/`) of a repository with these files."""
    return {top_entry(name.removeprefix(folder)) for name in names if name.startswith(folder)}


def _fetch_data_file(repo: str, path: str, revision: str, target: Path) -> DataFile:
    found = hf_hub_download(
        repo,
        path,
        repo_type="dataset",
        revision=revision,
        local_dir=target,
        token=read_token("dataset"),
        endpoint=_endpoint(),
    )
    return DataFile(Path(found).name, Path(found), Path(found).stat().st_size)


def describe_base(source: str, revision: str, target: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Fetch the config.json of `hf://org/name` into `target`; type and shape of each tensor by its name.

    The headers of the weights come by range requests: a plan of a 70B model reads a few hundred kB.
    """
    repo = source.removeprefix("hf://").strip("/")
    token = read_token("base-model")
    hub = HfApi(_endpoint(), token)
    with _explained(source, revision):
        try:
            hub.hf_hub_download(repo, "config.json", revision=revision, local_dir=target, token=token)
            files = hub.get_safetensors_metadata(repo, revision=revision, token=token).files_metadata
        except LocalEntryNotFoundError:
            raise
        except (EntryNotFoundError, NotASafetensorsRepoError, SafetensorsParsingError) as error:
            text = f"{source} lacks config.json or whole *.safetensors at its top level at {revision}"
            raise UserError(f"{text}; choose a repository in the transformers format.") from error
    return {
        name: (tensor.dtype, tuple(tensor.shape))
        for file in files.values()
        for name, tensor in file.tensors.items()
    }


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


def read_token(purpose: Purpose) -> str | bool:
    """The mounted token for a purpose, or False: a token of the surroundings is never sent."""
    return credential(purpose, "token") or False


def _says(marker: Path, wanted: str) -> bool:
    return marker.is_file() and marker.read_text(encoding="utf-8") == wanted


def _wanted_files(source: str, names: list[str]) -> list[str]:
    wanted = [name for name in names if is_description(name) or is_weight(name) or name == CARD]
    if "config.json" not in wanted or not any(map(is_weight, wanted)):
        text = f"{source} lacks config.json or *.safetensors at its top level; it holds {some(names)}"
        raise UserError(f"{text}. Choose a repository in the transformers format with safetensors.")
    return wanted


@contextmanager
def _explained(source: str, revision: str) -> Iterator[None]:
    """Turn the Hub's errors into sentences; what may pass by itself is unavailable, the rest the user's."""
    place = f"{source} at {_endpoint()}"
    try:
        yield
    except GatedRepoError as error:
        text = f"{place} is gated; accept its terms and name a Secret with a token in credentialsSecretRef."
        raise UserError(text) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{place} has no revision {revision}; give a commit that exists.") from error
    except RepositoryNotFoundError as error:
        text = (
            f"{place} does not exist or is private; check its name or name a Secret in credentialsSecretRef."
        )
        raise UserError(text) from error
    except HFValidationError as error:
        raise UserError(f"{source} is not understood; write hf://org/name.") from error
    except HfHubHTTPError as error:
        raise _http_error(place, error) from error
    except (httpx2.HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        text = f"{place} cannot be reached ({type(error).__name__}); check the address and the network."
        raise SourceUnavailableError(text) from error


def _http_error(place: str, error: HfHubHTTPError) -> UserError | SourceUnavailableError:
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return UserError(f"{place} refuses access (HTTP {status}); check the token in credentialsSecretRef.")
    if 400 <= status < 500 and status not in (408, 429):
        return UserError(f"{place} cannot be read (HTTP {status}); check the name and the revision.")
    return SourceUnavailableError(f"{place} failed with HTTP {status}; it is tried again.")
