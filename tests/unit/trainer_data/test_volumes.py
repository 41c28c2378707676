"""pvc:// and configmap:// paths stay inside their volumes."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.errors import UserError
from finetune_trainer.sources.fetch import locate
from finetune_trainer.sources.volumes import resolve_volume_path


def test_a_configmap_key_is_followed_through_the_links_of_the_kubelet(volumes: Any) -> None:
    source = volumes.configmap("data", "a.jsonl", [{"x": 1}])
    (file,) = locate(DatasetSpec(source=source), volumes.workspace, "train").files
    assert file.path.read_bytes() == b'{"x": 1}\n'


def test_a_whole_configmap_is_a_data_set_without_the_links_of_the_kubelet(volumes: Any) -> None:
    volumes.configmap("data", "b.jsonl", [{"x": 1}])
    volumes.configmap("data", "a.jsonl", [{"x": 1}])
    located = locate(DatasetSpec(source="configmap://data"), volumes.workspace, "train")
    assert ([file.name for file in located.files], located.unread) == (["a.jsonl", "b.jsonl"], ())


def test_a_folder_gives_its_files_by_name_and_tells_what_is_not_read(volumes: Any) -> None:
    folder = volumes.claims / "c" / "rows"
    (folder / "old").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl.gz", "README.md", ".swp", "_SUCCESS"):
        (folder / name).write_text("x")
    located = locate(DatasetSpec(source="pvc://c/rows/"), volumes.workspace, "train")
    assert [file.name for file in located.files] == ["a.jsonl.gz", "b.jsonl"]
    assert located.unread == ("old/",)


def test_a_folder_without_files_is_refused_with_what_it_holds(volumes: Any) -> None:
    (volumes.claims / "c" / "rows").mkdir(parents=True)
    with pytest.raises(UserError, match="pvc://c/rows is a folder without data files; it holds nothing"):
        locate(DatasetSpec(source="pvc://c"), volumes.workspace, "train")


@pytest.mark.parametrize(("dataset", "split"), [("train", "train"), ("holdout", "test")])
def test_the_split_of_a_data_set_is_found_in_the_folders_of_a_volume(
    dataset: str, split: str, volumes: Any
) -> None:
    for name in ("train", "test"):
        (volumes.claims / "c" / "data" / name).mkdir(parents=True)
        (volumes.claims / "c" / "data" / name / "rows.jsonl").write_text(name)
    located = locate(DatasetSpec(source="pvc://c"), volumes.workspace, dataset)
    assert [file.path.read_text() for file in located.files] == [split]
    assert located.unread == ("data/test/",) if dataset == "train" else ("data/train/",)


def test_a_folder_that_links_out_of_its_volume_is_not_listed(volumes: Any) -> None:
    (volumes.claims / "c").mkdir()
    (volumes.root / "secrets").mkdir()
    (volumes.root / "secrets" / "a.jsonl").write_text("{}")
    (volumes.claims / "c" / "data").symlink_to(volumes.root / "secrets")
    with pytest.raises(UserError, match="symbolic link out of its volume"):
        locate(DatasetSpec(source="pvc://c"), volumes.workspace, "train")


def test_a_link_out_of_the_volume_is_refused_in_a_folder_too(volumes: Any) -> None:
    (volumes.claims / "c").mkdir()
    (volumes.root / "secret").write_text("x")
    (volumes.claims / "c" / "a.jsonl").symlink_to(volumes.root / "secret")
    with pytest.raises(UserError, match=r"pvc://c/a\.jsonl is a symbolic link out of its volume"):
        locate(DatasetSpec(source="pvc://c"), volumes.workspace, "train")


def test_a_pipe_is_refused_before_anyone_waits_for_it(volumes: Any) -> None:
    (volumes.claims / "c").mkdir()
    os.mkfifo(volumes.claims / "c" / "a.jsonl")
    with pytest.raises(UserError, match="no regular file"):
        locate(DatasetSpec(source="pvc://c/a.jsonl"), volumes.workspace, "train")


def test_a_link_out_of_the_volume_is_refused(volumes: Any) -> None:
    (volumes.claims / "c").mkdir()
    (volumes.root / "secret").write_text("x")
    (volumes.claims / "c" / "link").symlink_to(volumes.root / "secret")
    with pytest.raises(UserError, match="symbolic link out of its volume"):
        resolve_volume_path("pvc://c/link")


def test_what_is_there_is_listed_when_the_path_is_not(volumes: Any) -> None:
    (volumes.claims / "c" / "models").mkdir(parents=True)
    (volumes.claims / "c" / "models" / "smollm2").mkdir()
    with pytest.raises(UserError, match="pvc://c/models/smolm2 does not exist; /models holds smollm2"):
        resolve_volume_path("pvc://c/models/smolm2")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "a", "", "~", "b/c"]), max_size=6))
def test_no_path_leads_outside_the_volume(volumes: Any, parts: list[str]) -> None:
    (volumes.claims / "c" / "a").mkdir(parents=True, exist_ok=True)
    try:
        path = resolve_volume_path("pvc://c/" + "/".join(parts), must_exist=False)
    except UserError:
        return
    assert path.resolve().is_relative_to((volumes.claims / "c").resolve())
