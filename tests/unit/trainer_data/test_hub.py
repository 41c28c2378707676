"""hf:// sources against a local stand-in of the Hub's HTTP interface."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.errors import SourceUnavailableError, UserError
from finetune_trainer.fingerprint import fingerprint
from finetune_trainer.sources.fetch import locate
from finetune_trainer.sources.hub import fetch_base
from tests.hub_stand_in import COMMIT, OTHER, TOKEN, HubStandIn


@pytest.fixture
def hub(tiny_base: Path, monkeypatch: pytest.MonkeyPatch, volumes: Any) -> Iterator[HubStandIn]:
    """A running stand-in, named as HF_ENDPOINT is."""
    files = {path.name: path.read_bytes() for path in tiny_base.iterdir()} | {
        "README.md": b"#", "pytorch_model.bin": b"x", "onnx/model.safetensors": b"x",
    }  # fmt: skip
    stand_in = HubStandIn(files, {"rows/train.jsonl": b'{"prompt": "a", "completion": "b"}\n'})
    monkeypatch.setenv("HF_ENDPOINT", stand_in.address)
    yield stand_in
    stand_in.stop()


def test_a_pinned_base_is_fetched_without_what_is_not_needed(
    hub: HubStandIn, tmp_path: Path, tiny_base: Path
) -> None:
    target = tmp_path / "base"
    fetch_base("hf://org/base", COMMIT, target)
    assert fingerprint(target) == fingerprint(tiny_base)
    assert (target / "README.md").is_file()  # says under which licence the base may be used
    assert not {"pytorch_model.bin", "onnx/model.safetensors"} & set(hub.downloads)


def test_a_finished_fetch_is_not_repeated_even_if_the_hub_is_away(hub: HubStandIn, tmp_path: Path) -> None:
    fetch_base("hf://org/base", COMMIT, tmp_path / "base")
    hub.failing = True
    fetch_base("hf://org/base", COMMIT, tmp_path / "base")


def test_another_revision_never_reuses_the_files_of_the_first(hub: HubStandIn, tmp_path: Path) -> None:
    fetch_base("hf://org/base", COMMIT, tmp_path / "base")
    with pytest.raises(UserError):
        fetch_base("hf://org/base", OTHER, tmp_path / "base")
    assert not (tmp_path / "base" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("source", "revision", "text"),
    [
        ("hf://org/base", OTHER, f"has no revision {OTHER}"),
        ("hf://org/nothing", COMMIT, "does not exist or is private"),
        ("hf://org/private", COMMIT, "credentialsSecretRef"),
        ("hf://org/pickle", COMMIT, "lacks config.json or *.safetensors"),
        ("hf://a/b/c/d", COMMIT, "is not understood; write hf://org/name"),
    ],
    ids=["wrong revision", "no such repository", "no token", "only pickles", "not a repository"],
)
def test_what_is_wrong_with_a_base_is_said(
    source: str, revision: str, text: str, hub: HubStandIn, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        fetch_base(source, revision, tmp_path / "base")
    assert text in str(caught.value)


def test_a_private_base_is_fetched_with_the_mounted_token_only(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_surroundings")
    fetch_base("hf://org/base", COMMIT, tmp_path / "public")
    assert set(hub.tokens) == {None}
    folder = tmp_path / "credentials" / "base-model"
    folder.mkdir(parents=True)
    (folder / "token").write_text(TOKEN + "\n")
    fetch_base("hf://org/private", COMMIT, tmp_path / "private")
    assert (tmp_path / "private" / "model.safetensors").is_file()


@pytest.mark.slow  # the same
def test_a_failing_hub_is_tried_again_later(hub: HubStandIn, tmp_path: Path) -> None:
    hub.failing = True
    with pytest.raises(SourceUnavailableError) as caught:
        fetch_base("hf://org/base", COMMIT, tmp_path / "base")
    assert hub.address in str(caught.value)


@pytest.mark.slow  # huggingface_hub tries again for 24 s
def test_an_unreachable_hub_is_named(hub: HubStandIn, tmp_path: Path) -> None:
    hub.stop()
    with pytest.raises(
        SourceUnavailableError, match=r"hf://org/base at http://127\.0\.0\.1:\d+ cannot be reached"
    ):
        fetch_base("hf://org/base", COMMIT, tmp_path / "base")


def test_a_dataset_file_is_read_at_its_revision(hub: HubStandIn, tmp_path: Path) -> None:
    spec = DatasetSpec(source="hf://datasets/org/data/rows/train.jsonl", revision=COMMIT)
    (file,) = locate(spec, tmp_path / "data", "train").files
    assert (file.name, file.path.read_bytes()) == ("train.jsonl", b'{"prompt": "a", "completion": "b"}\n')


def test_all_files_of_a_dataset_folder_are_fetched(hub: HubStandIn, tmp_path: Path) -> None:
    spec = DatasetSpec(source="hf://datasets/org/data/rows", revision=COMMIT)
    located = locate(spec, tmp_path / "data", "train")
    assert [(file.name, file.size) for file in located.files] == [("train.jsonl", 35)]


def test_a_missing_dataset_file_lists_what_the_repository_holds(hub: HubStandIn, tmp_path: Path) -> None:
    spec = DatasetSpec(source="hf://datasets/org/data/rows/tran.jsonl", revision=COMMIT)
    with pytest.raises(UserError, match=r"the repository holds rows/train\.jsonl"):
        locate(spec, tmp_path / "d", "train")


def test_an_incomplete_dataset_source_is_explained(tmp_path: Path) -> None:
    spec = DatasetSpec(source="hf://datasets/org", revision=COMMIT)
    with pytest.raises(UserError, match="write hf://datasets/org/name/path"):
        locate(spec, tmp_path, "train")


def test_prepare_takes_everything_from_the_hub(
    hub: HubStandIn, job_document: Any, run_cli: Any, volumes: Any, tiny_base: Path
) -> None:
    document = job_document(
        baseModel={"source": "hf://org/base", "revision": COMMIT, "fingerprint": fingerprint(tiny_base)},
        dataset={"source": "hf://datasets/org/data/rows/train.jsonl", "revision": COMMIT},
        evaluation=None,
    )
    code, result = run_cli(document)
    assert code == 0, result["message"]
    assert (result["summary"]["baseName"], result["summary"]["baseRevision"]) == ("org/base", COMMIT)
    assert (volumes.workspace / "base" / "config.json").is_file()
