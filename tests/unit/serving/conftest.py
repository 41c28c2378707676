"""A stand-in engine and published adapters for the tests of gateway and agent."""

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine_stand_in import StandInEngine, session
from tests.unit.serving.pod import Pod


def tiny_weights(name: str, rank: object) -> bytes:
    """A safetensors file with the matrices of one module of width 1, all numbers one; `name` makes it unique."""
    rank = rank if isinstance(rank, int) else 1
    module, size = "base_model.model.model.layers.0.self_attn.q_proj", 4 * rank
    header = {
        "__metadata__": {"name": name},
        f"{module}.lora_A.weight": {"dtype": "F32", "shape": [rank, 1], "data_offsets": [0, size]},
        f"{module}.lora_B.weight": {"dtype": "F32", "shape": [1, rank], "data_offsets": [size, 2 * size]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<f", 1.0) * 2 * rank


@pytest.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[StandInEngine]:
    engine = StandInEngine(tmp_path / "e.sock")
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def pod(stand_in: StandInEngine, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Pod]:
    patience = getattr(request, "param", 60.0)
    async with session(stand_in.path, force_close=True) as calls:
        pod = Pod(tmp_path, calls, patience)
        task = asyncio.create_task(pod.agent.run())
        yield pod
        assert not task.done()  # whatever happened, the agent is still at work
        task.cancel()


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Publish an adapter under the claim `adapters`; returns its entry for the server manifest."""

    def make(
        name: str,
        manifest: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        extra: dict[str, bytes] | None = None,
    ) -> dict[str, Any]:
        folder = tmp_path / "sources" / "pvc" / "adapters" / name
        folder.mkdir(parents=True)
        peft = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], **(config or {})}
        contents = {
            "adapter_config.json": json.dumps(peft).encode(),
            "adapter_model.safetensors": tiny_weights(name, peft["r"]),
            **(extra or {}),
        }
        files = []
        for path, content in contents.items():
            (folder / path).write_bytes(content)
            files.append({"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
        document = {
            "schemaVersion": 1,
            "kind": "Adapter",
            "baseModel": {"source": "pvc://b/m", "revision": None, "fingerprint": "sha256:" + "b" * 64},
            "adapter": {"rank": peft["r"], "alpha": 16},
            "files": files,
            "promoted": True,
            **(manifest or {}),
        }
        text = json.dumps(document).encode()
        (folder / "manifest.json").write_bytes(text)
        digest = hashlib.sha256(text).hexdigest()
        return {
            "name": f"{name}--{digest[:12]}",
            "source": f"pvc://adapters/{name}",
            "digest": f"sha256:{digest}",
            "allowUnpromoted": False,
        }

    return make
