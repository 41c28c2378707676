"""A table of adapters: each broken one is refused with its reason before an engine sees it, each good one served."""

import asyncio
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
from tests.engine_stand_in import StandInEngine, session
from tests.tiny_models import make_text_model
from tests.unit.serving.pod import Pod

FINGERPRINT = "sha256:" + "b" * 64


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("variants")
    return Workshop(make_text_model(folder / "base", "llama"), folder)


def publish(folder: Path) -> dict[str, Any]:
    """Write the manifest of a folder below `<sources>/pvc/adapters`; returns its entry for the server manifest."""
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
    source = f"pvc://adapters/{folder.name}"
    return {"name": f"{folder.name}--{digest[:12]}", "source": source, "digest": f"sha256:{digest}"}


def staged(workshop: Workshop, variant: Variant, folder: Path) -> Path:
    source = folder / "sources" / "pvc" / "adapters" / "a"
    source.parent.mkdir(parents=True)
    workshop.place(variant, source)
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


async def test_the_engine_is_asked_to_load_those_that_are_served_and_no_others(
    workshop: Workshop, stand_in: StandInEngine, tmp_path: Path
) -> None:
    entries: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for number, variant in enumerate((*GOOD, *REFUSED)):
        source = tmp_path / "sources" / "pvc" / "adapters" / f"v{number}"
        source.parent.mkdir(parents=True, exist_ok=True)
        workshop.place(variant, source)
        entries[variant in GOOD].append(publish(source))
    async with session(stand_in.path) as calls:
        pod = Pod(tmp_path, calls, modules=read_base(workshop.base))
        running = asyncio.create_task(pod.agent.run())
        pod.write(1, entries[True] + entries[False])
        await pod.until(lambda _: {"Ready", "Failed"} == set(pod.phases().values()))
        running.cancel()
    good = {entry["name"] for entry in entries[True]}
    assert {name for name, phase in pod.phases().items() if phase == "Ready"} == good
    assert stand_in.loras.keys() == good
    assert set(stand_in.seen) == good | {"base"}
