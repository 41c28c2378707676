"""The shape of a base model: what memory, time and the adapter's size are computed from.

Parameters are counted in the headers of the weights, so every family is planned exactly. Its config.json adds
what no weight shows: heads, experts per token, which tensors are layers.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.base.config import BaseConfig, read_base_config
from finetune_trainer.base.engine import refuse_unserved
from finetune_trainer.base.headers import Headers, Tensor, loaded_tensors, modules_of, read_headers
from finetune_trainer.base.targets import (
    Decoder,
    Shape,
    adapter_targets,
    find_decoder,
    is_expert,
    linear_layers,
    stored_head,
    takes_adapter,
)
from finetune_trainer.base.trainable import refuse_transposed, refuse_untrainable
from finetune_trainer.errors import UserError


@dataclass(frozen=True)
class Experts:
    """Routed experts: `active` of `total` per token; their parameters in all layers."""

    total: int
    active: int
    parameters: int


@dataclass(frozen=True)
class Linear:
    """The linear layers of one name and size; `count` in all decoder layers."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def parameters(self) -> int:
        """The weights of all of them."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class ModelShape:
    """A decoder; all counts are numbers of parameters or of elements, not bytes.

    `linears` are the linear layers of the decoder layers, `targets` those of them that LoRA may adapt. None
    are the output head (`head`, 0 when the embedding serves as one), the experts (single three-dimensional
    tensors in transformers 5) and the `rest` of the language model: norms, biases, routers. `beside` are the
    other parts of a multimodal model: loaded, and never trained. `quantised` is what QLoRA quantises, of
    those parts too. `feed_forward` is the width that one token passes in a layer; `vocab` the rows of the
    embedding, which may be narrower than `hidden`.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    linears: tuple[Linear, ...]
    targets: tuple[Linear, ...]
    vocab: int
    embedding: int
    head: int
    rest: int
    quantised: int
    largest_layer: int
    experts: Experts | None = None
    beside: int = 0

    @property
    def linear_parameters(self) -> int:
        """The weights of all linear layers (P_lin)."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def language_parameters(self) -> int:
        """The weights of the language model: what method Full trains."""
        experts = self.experts.parameters if self.experts else 0
        return self.embedding + self.head + self.linear_parameters + experts + self.rest

    @property
    def parameters(self) -> int:
        """Every weight that is loaded (P)."""
        return self.language_parameters + self.beside

    @property
    def largest_gathered(self) -> int:
        """The most weights that ZeRO-3 gathers at once (P_lay): a decoder layer or the embedding."""
        return max(self.embedding, self.largest_layer)

    @property
    def largest_linear(self) -> int:
        """The most weights that QLoRA dequantises at once."""
        return max((linear.inputs * linear.outputs for linear in self.linears), default=0)

    @property
    def product_parameters(self) -> int:
        """The weights that one token is multiplied with (N in training.md 3.3): with head, no embedding."""
        experts = self.experts
        active = experts.parameters * experts.active // experts.total if experts else 0
        return self.linear_parameters + active + (self.head or self.embedding)


@dataclass(frozen=True)
class BaseModel:
    """A base model by its config.json and the headers of its weights ({}: only the config is at hand)."""

    config: BaseConfig
    headers: Headers

    def shape(self) -> ModelShape:
        """Its shape; UserError for weights that the config does not describe, or no weights where needed."""
        return shape_of(self.config, self.headers or usual_headers(self.config))

    def trained(self, rank: int | None, chosen: Collection[str] | None) -> int:
        """The parameters that training changes: of an adapter of this rank, or (None) of the whole model."""
        headers = self.headers or usual_headers(self.config)
        if rank is None:
            return sum(tensor.parameters for tensor in headers.values())
        modules = modules_of(headers)
        return rank * sum(sum(modules[n]) for n in adapter_targets(modules, self.config, chosen).modules)

    def adapted(self, chosen: Collection[str] | None) -> tuple[str, ...]:
        """The names of the layers that an adapter sits on; UserError for a choice that the base has not.

        Also for a base whose adapters the engine does not serve.
        """
        refuse_unserved(self.config.architecture)
        headers = self.headers or usual_headers(self.config)
        refuse_transposed(self.config, headers)
        return adapter_targets(modules_of(headers), self.config, chosen).names


def read_base(folder: Path) -> BaseModel:
    """The base model of a folder; UserError for one that cannot be trained at all, or that has no weights.

    The checks are those of every command, whether or not its memory is planned.
    """
    base = read_model(folder)
    if not base.headers:
        text = "The base model's folder holds no *.safetensors file at its top level"
        raise UserError(f"{text}; give one in the transformers format, with its weights.")
    return base


def read_shape(path: Path) -> ModelShape:
    """The shape of a model, given as its folder or, for decoders of the usual parts, as config.json alone.

    UserError for weights that cannot be trained or that the config does not describe.
    """
    return read_model(path).shape()


def read_model(path: Path) -> BaseModel:
    """A base model, given as its folder or as config.json alone; UserError for one that cannot be trained."""
    base = BaseModel(read_base_config(path), read_headers(path) if path.is_dir() else {})
    if path.is_dir() and not base.headers and (pickles := sorted(path.glob("*.bin"))):
        text = f"The base model's weights are pickle files ({pickles[0].name}), which can run code when read"
        raise UserError(f"{text}; save them as *.safetensors (save_pretrained of transformers 5 does).")
    refuse_untrainable(base.config, base.headers)
    return base


def shape_of(base: BaseConfig, headers: Headers) -> ModelShape:
    """The shape of the model whose weights have these headers; UserError as for `read_shape`."""
    refuse_untrainable(base, headers)
    tensors = loaded_tensors(headers)
    modules = modules_of(tensors)
    decoder = find_decoder(modules, base)
    language, beside = _parts(tensors, decoder, base)
    linears = linear_layers(modules, base)
    experts = sum(t.parameters for name, t in language.items() if is_expert(name, t.shape, base))
    embedding, head = math.prod(modules[decoder.embedding]), stored_head(modules, decoder)
    known = embedding + head + experts + _weights(linears)
    return ModelShape(
        model_type=base.text_type,
        layers=base.require("layers"),
        hidden=base.require("hidden"),
        heads=base.require("heads"),
        kv_heads=base.require("kv_heads"),
        head_dim=base.require("head_dim"),
        feed_forward=_feed_forward(base, experts, linears),
        linears=_counted(linears),
        targets=_counted({n: size for n, size in linears.items() if takes_adapter(n, size, base)}),
        vocab=modules[decoder.embedding][0],
        embedding=embedding,
        head=0 if base.tied else head,  # some checkpoints store a copy of the embedding
        rest=sum(tensor.parameters for tensor in language.values()) - known,
        quantised=_weights(linear_layers(modules, base, all_parts=True)),
        largest_layer=_largest_layer(language, decoder),
        experts=_experts(base, experts),
        beside=sum(tensor.parameters for tensor in beside.values()),
    )


def _weights(modules: Mapping[str, Shape]) -> int:
    return sum(map(math.prod, modules.values()))


def _counted(layers: Mapping[str, Shape]) -> tuple[Linear, ...]:
    """Layers by the last part of their names, inputs and outputs."""
    kinds = Counter((name.rpartition(".")[2], inputs, outputs) for name, (outputs, inputs) in layers.items())
    return tuple(Linear(*kind, count) for kind, count in sorted(kinds.items()))


def adapter_parameters(shape: ModelShape, rank: int, names: Collection[str] | None = None) -> int:
    """The trained weights of LoRA (T): r * (inputs + outputs) over the targets of these names (all).

    Hu et al. 2021 (LoRA), section 4.1. Llama-3.1-8B with rank 16: 41.9 million.
    """
    adapted = (linear for linear in shape.targets if names is None or linear.name in names)
    return rank * sum(linear.count * (linear.inputs + linear.outputs) for linear in adapted)


def usual_headers(base: BaseConfig) -> dict[str, Tensor]:
    """What the weights of a decoder with attention and a gated feed-forward part are, by its config alone.

    UserError for one with other parts, whose sizes only its weights show.
    """
    parts = (*base.irregular, *(("other inputs than text",) if base.multimodal else ()))
    if parts:
        text = f"config.json alone does not tell the sizes of this {base.model_type} model"
        text += f" (it has {', '.join(parts)})"
        raise UserError(
            f"{text}; give the folder with its *.safetensors, of which only the headers are read, or a job "
            "with baseModel.source hf://... with --job."
        )
    embedding = base.require("vocab"), base.require("hidden")
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": embedding, "model.norm.weight": embedding[1:]}
    if not base.tied:
        shapes["lm_head.weight"] = embedding
    layer = dict(_usual_layer(base))
    for number in range(base.require("layers")):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {name: Tensor("BF16", shape) for name, shape in shapes.items()}


def _usual_layer(base: BaseConfig) -> Iterator[tuple[str, Shape]]:
    hidden, width = base.require("hidden"), base.require("head_dim")
    query, key = base.require("heads") * width, base.require("kv_heads") * width
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    if "self_attn.qkv_proj" in base.joined:
        yield "self_attn.qkv_proj.weight", (query + 2 * key, hidden)
    else:
        yield "self_attn.q_proj.weight", (query, hidden)
        yield "self_attn.k_proj.weight", (key, hidden)
        yield "self_attn.v_proj.weight", (key, hidden)
    yield "self_attn.o_proj.weight", (hidden, query)
    if base.experts:
        inner = base.require("expert_intermediate")
        yield "mlp.gate.weight", (base.experts, hidden)
        yield "mlp.experts.gate_up_proj", (base.experts, 2 * inner, hidden)
        yield "mlp.experts.down_proj", (base.experts, hidden, inner)
        return
    inner = base.require("intermediate")
    if "mlp.gate_up_proj" in base.joined:
        yield "mlp.gate_up_proj.weight", (2 * inner, hidden)
    else:
        yield "mlp.gate_proj.weight", (inner, hidden)
        yield "mlp.up_proj.weight", (inner, hidden)
    yield "mlp.down_proj.weight", (hidden, inner)


def _parts(
    tensors: Headers, decoder: Decoder, base: BaseConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the language model, and those of the other parts of a multimodal one."""
    language: dict[str, Tensor] = {}
    beside: dict[str, Tensor] = {}
    within = decoder.embedding.rpartition(".")[0] + "."
    head_shape = tensors[f"{decoder.embedding}.weight"].shape
    for name, tensor in tensors.items():
        layer = decoder.layer_of(name)
        if layer is not None and layer >= base.require("layers"):
            continue
        ours = not base.multimodal or name.startswith(within) or tensor.shape == head_shape
        (language if ours else beside)[name] = tensor
    return language, beside


def _feed_forward(base: BaseConfig, experts: int, linears: Mapping[str, Shape]) -> int:
    """The widest feed-forward part: of a dense layer, or of the active experts with the shared one.

    A dense part is as wide as the inputs of the layer that writes back into the model's width. Attention
    writes there too, of fewer inputs in nearly all models: otherwise the width is an upper bound.
    """
    inputs = {name: inputs for name, (outputs, inputs) in linears.items() if outputs == base.hidden}
    dense = max((width for name, width in inputs.items() if "shared" not in name), default=0)
    if not experts or not base.experts:
        return dense
    shared = max((width for name, width in inputs.items() if "shared" in name), default=0)
    return max(dense, base.require("active_experts") * base.require("expert_intermediate") + shared)


def _experts(base: BaseConfig, parameters: int) -> Experts | None:
    if not parameters:
        return None
    return Experts(base.require("experts"), base.require("active_experts"), parameters)


def _largest_layer(language: Headers, decoder: Decoder) -> int:
    sizes: Counter[int | None] = Counter()
    for name, tensor in language.items():
        sizes[decoder.layer_of(name)] += tensor.parameters
    return max(size for layer, size in sizes.items() if layer is not None)
