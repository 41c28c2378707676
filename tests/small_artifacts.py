"""A base model of one matrix and published adapters of it: what agents take, with nothing to compute."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from finetune_serving.fingerprint import base_fingerprint

_MODULE = "model.layers.0.self_attn.q_proj"


def write_base(folder: Path) -> None:
    """The base model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({f"{_MODULE}.weight": numpy.ones((8, 8), numpy.float32)}, folder / "model.safetensors")


def publish(
    folder: Path, base: Path, value: float = 0.5, config: str | None = None, promoted: bool = True
) -> str:
    """A LoRA adapter whose numbers all are `value`; returns the digest of its manifest.

    `config` is the text of adapter_config.json where it is not PEFT's.
    """
    folder.mkdir(parents=True)
    matrix = numpy.full((4, 8), value, numpy.float32)
    tensors = {"lora_A": matrix, "lora_B": matrix.T.copy()}
    names = {f"base_model.model.{_MODULE}.{kind}.weight": tensor for kind, tensor in tensors.items()}
    save_file(names, folder / "adapter_model.safetensors")
    peft = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(config or json.dumps(peft))
    manifest = {
        "schemaVersion": 1,
        "kind": "Adapter",
        "baseModel": {"fingerprint": base_fingerprint(base)},
        "adapter": {"rank": 4, "alpha": 8},
        "files": [_described(path) for path in sorted(folder.iterdir())],
        "promoted": promoted,
    }
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


def _described(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"path": path.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
