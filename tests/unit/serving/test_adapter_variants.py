"""A table of adapters: each broken one is refused with its reason before an engine sees it, each good one served."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_serving.adapter.base import read_base
from finetune_serving.agent.artifact import stage
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import VersionEntry
from tests.adapter_variants import GOOD, MAX_RANK, REFUSED, Variant, Workshop
from tests.tiny_models import make_text_model

FINGERPRINT = "sha256:" + "b" * 64


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("variants")
    return Workshop(make_text_model(folder / "base", "llama"), folder)


def publish(folder: Path) -> dict[str, Any]:
    """Write the manifest of a folder below `<sources>/pvc/adapters`; returns its entry for the agent."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    files = [
        {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in contents.items()
    ]
    manifest = {
        "schemaVersion": 1,
        "kind": "Adapter",
        "baseModel": {"fingerprint": FINGERPRINT},
        "files": files,
        "promoted": True,
    }
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    return {"name": f"a--{digest[:12]}", "source": "pvc://adapters/a", "digest": f"sha256:{digest}"}


def staged(workshop: Workshop, variant: Variant, folder: Path) -> Path:
    source = folder / "sources" / "pvc" / "adapters" / "a"
    source.parent.mkdir(parents=True)
    variant.make(workshop, source)
    entry = VersionEntry.model_validate(publish(source))
    limits = Limits(FINGERPRINT, MAX_RANK, base_modules=read_base(workshop.base))
    return stage(entry, folder / "sources", folder / "adapters", limits).folder


@pytest.mark.parametrize("variant", GOOD, ids=lambda variant: variant.sentence)
def test_served(workshop: Workshop, variant: Variant, tmp_path: Path) -> None:
    folder = staged(workshop, variant, tmp_path)
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("variant", REFUSED, ids=lambda variant: variant.sentence)
def test_refused(workshop: Workshop, variant: Variant, tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        staged(workshop, variant, tmp_path)
    assert (caught.value.reason, caught.value.retry) == (variant.reason, False), caught.value.message
    assert variant.says in caught.value.message
    assert len(caught.value.message) < 700
    assert list((tmp_path / "adapters").iterdir()) == []
