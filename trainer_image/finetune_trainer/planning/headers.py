"""A config.json checked against the headers of the weights."""

from collections.abc import Mapping
from pathlib import Path

from finetune_trainer.base.headers import Tensor, read_headers
from finetune_trainer.errors import UserError
from finetune_trainer.planning.shape import ModelShape, read_config, shape_of

# Parts of a model that reads more than text; the plan is of its text part.
_OTHER_PARTS = ("vision_tower.", "vision_model.", "multi_modal_projector.", "visual.", "audio_tower.")
_FLOATS = {"F64", "F32", "F16", "BF16"}


def shape_of_folder(path: Path) -> ModelShape:
    """The shape of a model, given as its folder or config.json, checked against weights that lie there."""
    shape = shape_of(read_config(path))
    headers = read_headers(path) if path.is_dir() else {}
    if headers:
        verify(shape, headers)
    return shape


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
