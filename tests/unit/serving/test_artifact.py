"""Copying by digest: nothing reaches the engine that was not named and hashed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_serving.agent.artifact import stage
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import VersionEntry

LIMITS = Limits("sha256:" + "b" * 64, 16)
Publish = Callable[..., dict[str, Any]]


def staged(tmp_path: Path, entry: dict[str, Any]) -> Path:
    parsed = VersionEntry.model_validate(entry)
    return stage(parsed, tmp_path / "sources", tmp_path / "adapters", LIMITS).folder


def refusal(tmp_path: Path, entry: dict[str, Any]) -> tuple[str, bool]:
    with pytest.raises(RefusedError) as caught:
        staged(tmp_path, entry)
    left = list((tmp_path / "adapters").iterdir()) if (tmp_path / "adapters").exists() else []
    assert all(not path.name.startswith(".") for path in left)
    return caught.value.reason, caught.value.retry


def source(tmp_path: Path, name: str = "a") -> Path:
    return tmp_path / "sources" / "pvc" / "adapters" / name


def test_a_published_adapter_is_copied_under_its_digest(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a", extra={"README.md": b"for people"})
    folder = staged(tmp_path, entry)
    assert folder.name == entry["digest"][7:19]
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "manifest.json"]


def test_a_complete_copy_is_kept_and_a_damaged_one_replaced(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    folder = staged(tmp_path, entry)
    inode = folder.stat().st_ino
    assert staged(tmp_path, entry).stat().st_ino == inode
    (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    assert (staged(tmp_path, entry) / "adapter_model.safetensors").read_bytes() == b"weights of a"


def test_a_folder_that_is_not_there_may_still_come(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    shutil.rmtree(source(tmp_path))
    assert refusal(tmp_path, entry) == ("ArtifactMissing", True)


def test_a_file_that_is_not_there_may_still_come(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    (source(tmp_path) / "adapter_model.safetensors").unlink()
    assert refusal(tmp_path, entry) == ("ArtifactMissing", True)


def test_a_manifest_published_again_is_not_what_was_deployed(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    manifest = source(tmp_path) / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert refusal(tmp_path, entry) == ("DigestMismatch", False)


@pytest.mark.parametrize("content", [b"weights of b", b"short", b"much longer than was recorded"])
def test_weights_that_differ_from_the_manifest_are_refused(
    tmp_path: Path, publish: Publish, content: bytes
) -> None:
    entry = publish("a")
    (source(tmp_path) / "adapter_model.safetensors").write_bytes(content)
    assert refusal(tmp_path, entry) == ("DigestMismatch", False)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    weights = source(tmp_path) / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    assert refusal(tmp_path, entry) == ("InvalidArtifact", False)


def test_a_linked_folder_is_refused(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    source(tmp_path).rename(tmp_path / "elsewhere")
    source(tmp_path).symlink_to(tmp_path / "elsewhere")
    assert refusal(tmp_path, entry) == ("InvalidArtifact", False)


@pytest.mark.parametrize(
    "address", ["pvc://adapters/../secret", "pvc://../x/y", "s3://bucket/x", "/etc", "pvc://"]
)
def test_odd_sources_are_refused(tmp_path: Path, publish: Publish, address: str) -> None:
    assert refusal(tmp_path, publish("a") | {"source": address}) == ("InvalidArtifact", False)


@pytest.mark.parametrize("name", ["adapter_model.bin", "code.py", "payload"])
def test_files_that_could_run_code_are_refused(tmp_path: Path, publish: Publish, name: str) -> None:
    assert refusal(tmp_path, publish("a", extra={name: b"x"})) == ("InvalidArtifact", False)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param([], id="nothing listed"),
        pytest.param([{"path": "../x.json", "sha256": "0" * 64, "bytes": 1}], id="a path that climbs out"),
    ],
)
def test_odd_file_lists_are_refused(tmp_path: Path, publish: Publish, files: list[Any]) -> None:
    assert refusal(tmp_path, publish("a", manifest={"files": files})) == ("InvalidArtifact", False)


def test_an_unpromoted_adapter_is_not_even_copied(tmp_path: Path, publish: Publish) -> None:
    assert refusal(tmp_path, publish("a", manifest={"promoted": False})) == ("Unpromoted", False)
    assert not (tmp_path / "adapters").exists()


def test_a_config_that_the_engine_cannot_serve_is_refused(tmp_path: Path, publish: Publish) -> None:
    assert refusal(tmp_path, publish("a", config={"use_dora": True})) == ("UnsupportedAdapter", False)


def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    import hashlib

    text = json.dumps([1]).encode()
    (source(tmp_path) / "manifest.json").write_bytes(text)
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    assert refusal(tmp_path, entry | {"digest": digest}) == ("InvalidArtifact", False)
