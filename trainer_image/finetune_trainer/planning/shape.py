"""The shape of a decoder from its config.json: what memory and time are computed from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError

# Decoders with one gated MLP per layer; anything else would be computed wrongly, so it is refused.
GATED = frozenset(
    ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "smollm3", "granite")
)
_NUMBERS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder; `heads * head_dim` is the width of attention, `kv_heads` of its keys and values."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the seven linear maps of a layer: q, k, v, o, gate, up, down."""
        attention, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, ff = self.hidden, self.intermediate
        return (h, attention), (h, keys), (h, keys), (attention, h), (h, ff), (h, ff), (ff, h)

    @property
    def linear_parameters(self) -> int:
        """Parameters of all layers' matrices: what QLoRA quantises."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.layer_matrices)

    @property
    def parameters(self) -> int:
        """All parameters: matrices, norms (two per layer and the last), embedding, and head unless tied."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.linear_parameters + embeddings + (2 * self.layers + 1) * self.hidden

    @property
    def largest_layer(self) -> int:
        """The largest module that ZeRO-3 gathers at once: a layer or the embedding."""
        return max(self.linear_parameters // self.layers, self.vocabulary * self.hidden)

    @property
    def multiplied_parameters(self) -> int:
        """N of the FLOP formulas: parameters in products, head included, embedding lookup not."""
        return self.linear_parameters + self.vocabulary * self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """r * (inputs + outputs) over all adapted matrices: every linear one but the head, as in PEFT."""
        return rank * self.layers * sum(inputs + outputs for inputs, outputs in self.layer_matrices)


def read_shape(model: Path) -> ModelShape:
    """The shape of a model folder or of a config.json; UserError when it cannot be planned."""
    path = model / "config.json" if model.is_dir() else model
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a model folder or its config.json."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); give a model folder or its config.json.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no JSON object; give a model folder or its config.json.")
    return shape_of(config)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a transformers configuration describes; UserError names the type or field at fault."""
    text = config.get("text_config") or config
    kind = text.get("model_type") or config.get("model_type")
    if kind not in GATED:
        raise UserError(
            f"The memory of a model of type {kind!r} cannot be planned; known types are "
            f"{', '.join(sorted(GATED))}."
        )
    numbers = {name: _number(text, name) for name in _NUMBERS}
    heads = numbers["num_attention_heads"]
    return ModelShape(
        vocabulary=numbers["vocab_size"],
        hidden=numbers["hidden_size"],
        intermediate=numbers["intermediate_size"],
        layers=numbers["num_hidden_layers"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or numbers["hidden_size"] // heads,
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", kind in _TIED))),
    )


_TIED = frozenset(("gemma", "gemma2", "gemma3_text"))  # their classes tie unless the file says otherwise


def _number(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"The model's config.json has no usable {name} (it is {value!r}); repair it.")
    return value
