"""The shapes of the weights themselves: safetensors headers, against which a config.json is checked.

A header is 8 bytes of length and a JSON object of names, types, shapes and offsets; the weights are not read.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError
from finetune_trainer.planning.shape import ModelShape, read_config, shape_of

_INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000  # the format's own limit
# Parts of a model that reads more than text; the plan is of its text part.
_OTHER_PARTS = ("vision_tower.", "vision_model.", "multi_modal_projector.", "visual.", "audio_tower.")
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a header; `dtype` as safetensors names it (BF16, F32, ...)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def shape_of_folder(path: Path) -> ModelShape:
    """The shape of a model, given as its folder or config.json, checked against weights that lie there."""
    shape = shape_of(read_config(path))
    headers = read_headers(path) if path.is_dir() else {}
    if headers:
        verify(shape, headers)
    return shape


def read_headers(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors by name, {} without any; UserError for a broken file."""
    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        tensors |= _read_header(path)
    return tensors


def verify(shape: ModelShape, tensors: Mapping[str, Tensor]) -> None:
    """Refuse with UserError weights that a config.json does not describe, by embedding, layers and count.

    Memory and time would be computed for another model than the one that is loaded.
    """
    text = {name: tensor for name, tensor in tensors.items() if not _beside(name, shape)}
    _require_floats(text)
    embedding = next((t for name, t in text.items() if name.endswith("embed_tokens.weight")), None)
    if embedding is None or embedding.shape != (shape.vocab, shape.hidden):
        _refuse("vocab_size x hidden_size", f"{shape.vocab} x {shape.hidden}", _said(embedding))
    layers = {_layer(name) for name in text} - {None}
    if len(layers) != shape.layers:
        _refuse("num_hidden_layers", str(shape.layers), str(len(layers)))
    counted = sum(tensor.parameters for tensor in text.values())
    if counted != shape.parameters:
        _refuse("sizes", f"{shape.parameters:,} parameters", f"{counted:,}")


def _files(folder: Path) -> list[Path]:
    """The files that the index names, else all."""
    index = folder / _INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        paths = [folder / Path(name).name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"The base model's {_INDEX} has no weight_map; fetch the model again.") from error
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"The base model lacks {', '.join(missing[:3])}, which its index names; fetch it again."
        )
    return paths


def _read_header(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= _LONGEST_HEADER else None
        return _tensors(header, path.stat().st_size - 8 - length)
    except OSError as error:
        raise UserError(f"The base model's {path.name} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"The base model's {path.name} is no whole safetensors file"
        raise UserError(f"{text}; fetch the model again.") from error


def _tensors(header: Any, data: int) -> dict[str, Tensor]:
    """The tensors of a parsed header; ValueError and its like when it does not describe `data` bytes."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if max((entry["data_offsets"][1] for entry in entries.values()), default=0) != data:
        raise ValueError("the weights are cut off")
    return {
        name: Tensor(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
        for name, entry in entries.items()
    }


def _beside(name: str, shape: ModelShape) -> bool:
    """Tensors that are not weights of the text model: other parts, buffers, the copy of a tied head."""
    tied_head = shape.tied and name.endswith("lm_head.weight")
    return tied_head or name.endswith("rotary_emb.inv_freq") or any(part in name for part in _OTHER_PARTS)


def _require_floats(tensors: Mapping[str, Tensor]) -> None:
    found = sorted({tensor.dtype for tensor in tensors.values()} - _FLOATS)
    if found:
        text = f"The base model's weights are quantised ({', '.join(found)})"
        raise UserError(f"{text}; name the 16-bit model: method QLoRA quantises it itself.")


def _layer(name: str) -> str | None:
    parts = name.split(".")
    return parts[parts.index("layers") + 1] if "layers" in parts[:-1] else None


def _said(tensor: Tensor | None) -> str:
    return " x ".join(map(str, tensor.shape)) if tensor else "no embedding"


def _refuse(field: str, config: str, weights: str) -> None:
    text = f"The base model's config.json and its weights differ: {field} is {config} in the one"
    raise UserError(f"{text} and {weights} in the other; fetch both from the same revision.")
