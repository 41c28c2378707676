"""The shape of a decoder model, from its config.json alone: what memory, time and adapters are computed from.

The parameter counts are exact for the families below (tests compare them with the modules of transformers);
`headers.verify` checks them against the weights themselves.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: `total` per layer, `active` per token, each `intermediate` wide."""

    total: int
    active: int
    intermediate: int


@dataclass(frozen=True)
class ModelShape:
    """A decoder; all counts are numbers of parameters or of elements, not bytes.

    `layer_linears` are the (inputs, outputs) of the linear layers of one decoder layer: those that LoRA
    adapts and QLoRA quantises. The output head is neither; experts are single three-dimensional tensors in
    transformers 5, which both leave alone.
    """

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    layer_linears: tuple[tuple[int, int], ...]
    layer_extras: int
    experts: Experts | None = None

    @property
    def linear_parameters(self) -> int:
        """The weights that QLoRA quantises and LoRA adapts (P_lin)."""
        return self.layers * _products(self.layer_linears)

    @property
    def embedding(self) -> int:
        """The token embedding, which a tied output head shares."""
        return self.vocab * self.hidden

    @property
    def layer_parameters(self) -> int:
        """All of one decoder layer: linear layers, experts, norms and biases."""
        experts = self.experts.total * self._expert_parameters if self.experts else 0
        return _products(self.layer_linears) + self.layer_extras + experts

    @property
    def parameters(self) -> int:
        """Every weight (P): embedding, decoder layers, last norm, output head unless tied."""
        ends = self.embedding * (1 if self.tied else 2) + self.hidden
        return ends + self.layers * self.layer_parameters

    @property
    def largest_layer(self) -> int:
        """The most weights that ZeRO-3 gathers at once (P_lay): a decoder layer or the embedding."""
        return max(self.embedding, self.layer_parameters)

    @property
    def largest_linear(self) -> int:
        """The most weights that QLoRA dequantises at once."""
        return max(inputs * outputs for inputs, outputs in self.layer_linears)

    @property
    def product_parameters(self) -> int:
        """The weights that one token is multiplied with (N in training.md 3.3): with head, no embedding."""
        experts = self.experts.active * self._expert_parameters if self.experts else 0
        return self.layers * (_products(self.layer_linears) + experts) + self.embedding

    @property
    def active_intermediate(self) -> int:
        """The width of the feed-forward part that one token passes."""
        return self.experts.active * self.experts.intermediate if self.experts else self.intermediate

    @property
    def _expert_parameters(self) -> int:
        return 3 * self.hidden * self.experts.intermediate if self.experts else 0


@dataclass(frozen=True)
class _Family:
    """How a model_type differs from Llama."""

    attention_bias: tuple[str, ...] | None = None  # which projections have one; None: attention_bias says
    mlp_bias: bool = False  # whether the field mlp_bias means something
    head_norms: bool = False  # an RMSNorm over each head of query and key
    norms: int = 2  # of hidden size, per decoder layer
    fused: bool = False  # one product for query, key and value, one for gate and up
    experts: str | None = None  # the field with their number
    expert_width: str = "intermediate_size"
    defaults: Mapping[str, Any] = field(default_factory=dict)  # what a config.json may leave out


_QKV = ("q", "k", "v")
_TIED = {"tie_word_embeddings": True}
_GEMMA3 = {
    **_TIED,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
}
FAMILIES: dict[str, _Family] = {
    "llama": _Family(mlp_bias=True),
    "mistral": _Family(attention_bias=()),
    "qwen2": _Family(attention_bias=_QKV),
    "qwen3": _Family(head_norms=True),
    "phi3": _Family(attention_bias=(), fused=True),
    "gemma": _Family(defaults=_TIED),
    "gemma2": _Family(norms=4, defaults=_TIED),
    "gemma3_text": _Family(norms=4, head_norms=True, defaults=_GEMMA3),
    "smollm3": _Family(mlp_bias=True, defaults=_TIED),
    "granite": _Family(mlp_bias=True),
    "mixtral": _Family(attention_bias=(), experts="num_local_experts"),
    "qwen3_moe": _Family(head_norms=True, experts="num_experts", expert_width="moe_intermediate_size"),
}


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json, given as the file or its folder; UserError when there is none."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        text = f"{path} holds no config.json that can be read"
        raise UserError(f"{text} ({error.strerror}); give a model's folder or its config.json.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON; give a model's config.json.") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} is not a JSON object; give a model's config.json.")
    return config


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json describes; UserError names the model_type or the field that is missing."""
    text = config.get("text_config")
    inner: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
    name = str(inner.get("model_type"))
    family = FAMILIES.get(name)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise UserError(f"The base model's model_type is {name}; the memory plan knows {known}.")
    return _shape(name, family, {**family.defaults, **_stated(inner)})


def adapter_parameters(shape: ModelShape, rank: int) -> int:
    """The trained weights of LoRA (T): r * (inputs + outputs) over all linear layers but the output head.

    Hu et al. 2021 (LoRA), section 4.1. Llama-3.1-8B with rank 16: 41.9 million.
    """
    return rank * shape.layers * sum(inputs + outputs for inputs, outputs in shape.layer_linears)


def _shape(name: str, family: _Family, config: Mapping[str, Any]) -> ModelShape:
    read = _Reader(name, config)
    hidden, heads = read.count("hidden_size"), read.count("num_attention_heads")
    # Llama 2 and its like state neither: one key per query head, heads that share the hidden size.
    kv_heads = read.count("num_key_value_heads", heads)
    head_dim = read.count("head_dim", hidden // heads)
    experts = _experts(family, read)
    width = 0 if experts else read.count("intermediate_size")
    sizes = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    return ModelShape(
        model_type=name,
        layers=read.count("num_hidden_layers"),
        hidden=hidden,
        intermediate=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=read.count("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        layer_linears=_linears(family, hidden, width, sizes),
        layer_extras=_extras(family, config, sizes, hidden, width, head_dim)
        + (hidden * experts.total if experts else 0),  # the router
        experts=experts,
    )


def _linears(
    family: _Family, hidden: int, width: int, sizes: Mapping[str, int]
) -> tuple[tuple[int, int], ...]:
    """Attention, then the feed-forward part unless experts replace it."""
    inward = [sum(sizes.values())] if family.fused else list(sizes.values())
    attention = [(hidden, outputs) for outputs in inward] + [(sizes["q"], hidden)]
    if not width:
        return tuple(attention)
    gates = [(hidden, 2 * width)] if family.fused else [(hidden, width), (hidden, width)]
    return (*attention, *gates, (width, hidden))


def _extras(
    family: _Family, config: Mapping[str, Any], sizes: Mapping[str, int], hidden: int, width: int, dim: int
) -> int:
    """Norms and biases of one decoder layer."""
    biased = family.attention_bias
    if biased is None:
        biased = ("q", "k", "v", "o") if config.get("attention_bias") else ()
    biases = sum({**sizes, "o": hidden}[name] for name in biased)
    if family.mlp_bias and config.get("mlp_bias"):
        biases += 2 * width + hidden
    return biases + family.norms * hidden + (2 * dim if family.head_norms else 0)


def _experts(family: _Family, read: "_Reader") -> Experts | None:
    if family.experts is None:
        return None
    if read.config.get("mlp_only_layers") or read.config.get("decoder_sparse_step", 1) != 1:
        text = f"The base model ({read.name}) has layers with and without experts (mlp_only_layers or"
        raise UserError(f"{text} decoder_sparse_step); the memory plan knows only models that have one kind.")
    return Experts(
        total=read.count(family.experts),
        active=read.count("num_experts_per_tok"),
        intermediate=read.count(family.expert_width),
    )


@dataclass(frozen=True)
class _Reader:
    name: str
    config: Mapping[str, Any]

    def count(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key, default)
        if value is None:
            raise UserError(
                f"The base model's config.json ({self.name}) lacks {key}, which its memory depends on."
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            text = f"The base model's config.json ({self.name}) says {key}: {str(value)[:40]}"
            raise UserError(f"{text}; it must be a whole number above 0.")
        return int(value)


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says; null means left out (head_dim of Mistral)."""
    return {key: value for key, value in config.items() if value is not None}


def _products(linears: tuple[tuple[int, int], ...]) -> int:
    return sum(inputs * outputs for inputs, outputs in linears)
