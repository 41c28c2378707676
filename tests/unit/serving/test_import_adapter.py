"""Adapters of other trainers: checked like any other, and given the manifest that a server needs."""

import hashlib
import json
from pathlib import Path

import pytest

from finetune_serving.__main__ import main
from finetune_serving.adapter.base import read_base
from finetune_serving.agent.artifact import stage
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import VersionEntry
from finetune_serving.fingerprint import base_fingerprint
from tests.adapter_variants import Workshop
from tests.tiny_models import make_text_model


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("imported")
    return Workshop(make_text_model(folder / "base", "llama"), folder)


def run(folder: Path, base: Path) -> int:
    return main(["import-adapter", "--from", str(folder), "--base", str(base)])


def test_an_imported_adapter_is_served_once_that_is_allowed(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "sources" / "pvc" / "adapters" / "a"
    workshop.plain(folder)
    assert run(folder, workshop.base) == 0
    digest = "sha256:" + hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    entry = VersionEntry(name="a--1", source="pvc://adapters/a", digest=digest, allow_unpromoted=True)
    limits = Limits(base_fingerprint(workshop.base), 16, base_modules=read_base(workshop.base))
    assert stage(entry, tmp_path / "sources", tmp_path / "adapters", limits).folder.is_dir()
    with pytest.raises(RefusedError, match="allowUnpromoted"):
        stage(entry.model_copy(update={"allow_unpromoted": False}), tmp_path / "sources", tmp_path, limits)


def test_importing_again_keeps_the_digest_and_never_replaces_another_manifest(
    workshop: Workshop, tmp_path: Path
) -> None:
    workshop.plain(tmp_path / "a")
    assert run(tmp_path / "a", workshop.base) == 0
    assert run(tmp_path / "a", workshop.base) == 0
    (tmp_path / "a" / "manifest.json").write_text("{}")
    assert run(tmp_path / "a", workshop.base) == 1
    assert (tmp_path / "a" / "manifest.json").read_text() == "{}"


def test_what_a_server_would_refuse_is_not_imported(
    workshop: Workshop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workshop.train(tmp_path / "a", zero=True)
    assert run(tmp_path / "a", workshop.base) == 1
    assert "SilentNoOp" in capfd.readouterr().err
    assert not (tmp_path / "a" / "manifest.json").exists()


def test_a_folder_without_an_adapter_is_said(workshop: Workshop, tmp_path: Path) -> None:
    assert run(tmp_path, workshop.base) == 1
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    assert run(tmp_path, workshop.base) == 1
