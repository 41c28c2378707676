"""The linear layers of a base model, and which of them an adapter sits on: for the plan and for training.

Modules are given by name with the shape of their weight, (outputs, inputs): those of the headers, or the
linear layers and the token embedding of the loaded model. transformers renames some on loading and joins the
matrices of experts into one tensor; the rules read neither.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from finetune_trainer.base.config import BaseConfig
from finetune_trainer.base.engine import is_joined
from finetune_trainer.errors import UserError

Shape = tuple[int, ...]
_NUMBERED = re.compile(r"(?P<stack>.+?)\.(?P<layer>\d+)\.")


@dataclass(frozen=True)
class Targets:
    """The adapted modules: the last parts of their names, sorted, and their full names."""

    names: tuple[str, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """Where the language model is among the modules: `embedding` its tokens', `stack` its decoder layers'."""

    embedding: str
    stack: str

    def layer_of(self, name: str) -> int | None:
        """The number of the decoder layer that a module is in; None outside of them."""
        found = _NUMBERED.match(name)
        return int(found["layer"]) if found and found["stack"] == self.stack else None


def linear_layers(
    modules: Mapping[str, Shape], base: BaseConfig, *, all_parts: bool = False
) -> dict[str, Shape]:
    """The linear layers of the language model's decoder layers, but for routed experts and their routers.

    Layers that predict further tokens are numbered beyond the model's, and left out. `all_parts` adds those
    within numbered layers elsewhere (a vision tower): what method QLoRA quantises, since bitsandbytes takes
    every `nn.Linear` but the output head. Those outside of such layers, as between the tower and the language
    model, are not told from embeddings by their headers: they are taken to stay as they are.
    """
    decoder, layers = find_decoder(modules, base), base.require("layers")
    numbers = {name: decoder.layer_of(name) for name in modules if _NUMBERED.match(name)}
    loaded = (name for name, number in numbers.items() if (all_parts if number is None else number < layers))
    return {name: modules[name] for name in loaded if _is_linear(name, modules[name], base)}


def adapter_targets(
    modules: Mapping[str, Shape], base: BaseConfig, chosen: Collection[str] | None = None
) -> Targets:
    """The linear layers of the decoder layers that an adapter sits on, all or those `chosen` by last name.

    UserError names a choice that the model does not have, or says that it has nothing to choose from.
    """
    layers = linear_layers(modules, base)
    found = [name for name, shape in layers.items() if takes_adapter(name, shape, base)]
    if not found:
        text = (
            f"The layers of the base model ({base.text_type}) hold no linear layer that an adapter can sit on"
        )
        raise UserError(f"{text}; use method Full or another base model.")
    present = sorted({_leaf(name) for name in found})
    wanted = sorted(set(present if chosen is None else chosen))
    if unknown := [name for name in wanted if name not in present]:
        text = f"lora.targetModules names {', '.join(unknown)}, which the base model does not have as a layer"
        raise UserError(f"{text} that an adapter can sit on; choose from {', '.join(present)}.")
    return Targets(tuple(wanted), tuple(name for name in found if _leaf(name) in wanted))


def takes_adapter(name: str, shape: Shape, base: BaseConfig) -> bool:
    """Whether an adapter may sit on a linear layer.

    Not on the gate before a shared expert, which has one output, nor on what the engine does not apply as a
    layer or takes apart.
    """
    unserved = _is_absorbed(name, base) or is_joined(_leaf(name), base.architecture)
    return shape[0] > 1 and not unserved


def is_expert(name: str, shape: Shape, base: BaseConfig) -> bool:
    """Whether a module or tensor is one of the experts that a router chooses from, or all of a layer's."""
    return "experts" in name.split(".") or (len(shape) == 3 and shape[0] == base.experts)


def find_decoder(modules: Mapping[str, Shape], base: BaseConfig) -> Decoder:
    """The language model: numbered layers, as many as its config says, beside an embedding of its width.

    Vision and audio towers have numbered layers too, but no such embedding beside them. UserError when no
    module is one.
    """
    if decoder := decoder_among(modules, base):
        return decoder
    width, layers = base.require("embedding_width"), base.require("layers")
    field = "hidden_size" if width == base.hidden else "word_embed_proj_dim"
    text = f"The base model's weights hold no embedding of width {width} ({field}) with {layers} layers"
    raise UserError(
        f"{text} (num_hidden_layers) beside it; fetch config.json and weights of the same revision."
    )


def decoder_among(modules: Mapping[str, Shape], base: BaseConfig) -> Decoder | None:
    """The same, whose layers may be more than the config says; None when there is none.

    Positions may have an embedding of the same width (OPT, GPT-Neo); the tokens' has a row for each of them.
    """
    width, layers = base.require("embedding_width"), base.require("layers")
    stacks = {stack: count for stack, count in layer_counts(modules).items() if count >= layers}
    wide = (name for name, shape in modules.items() if len(shape) == 2 and shape[1] == width)
    outside = (name for name in wide if not _NUMBERED.match(name))
    found = [Decoder(name, stack) for name in outside if (stack := _largest_beside(name, stacks))]
    rows = {decoder: modules[decoder.embedding][0] for decoder in found}
    return max(found, key=lambda decoder: (rows[decoder] == base.vocab, rows[decoder]), default=None)


def stored_head(modules: Mapping[str, Shape], decoder: Decoder) -> int:
    """The parameters of the output head: what has the embedding's size and is in no layer; 0 without."""
    embedding = modules[decoder.embedding]
    outside = (n for n in modules if n != decoder.embedding and decoder.layer_of(n) is None)
    return math.prod(embedding) if any(modules[name] == embedding for name in outside) else 0


def _largest_beside(name: str, stacks: Mapping[str, int]) -> str:
    """Of the stacks of layers in the same module as an embedding that of the most layers; "" without any."""
    parent = name.rpartition(".")[0]
    beside = (stack for stack in stacks if stack.rpartition(".")[0] == parent)
    return max(beside, key=lambda stack: stacks[stack], default="")


def layer_counts(modules: Mapping[str, Shape]) -> Counter[str]:
    """The number of layers by the name that stands before their numbers."""
    found = (_NUMBERED.match(name) for name in modules)
    return Counter(stack for stack, _ in {(match["stack"], match["layer"]) for match in found if match})


def _is_linear(name: str, shape: Shape, base: BaseConfig) -> bool:
    return len(shape) == 2 and not is_expert(name, shape, base) and not _is_router(name, shape, base)


def _is_router(name: str, shape: Shape, base: BaseConfig) -> bool:
    return shape[0] == base.experts and ("router" in name or _leaf(name) == "gate")


def _is_absorbed(name: str, base: BaseConfig) -> bool:
    """Latent attention's up-projection: vLLM multiplies it into other weights when it loads a base.

    An adapter on it would be trained and not served (vllm/model_executor/layers/attention/mla_attention.py,
    `split_kv_b_proj`).
    """
    return _leaf(name) == "kv_b_proj" and "kv_lora_rank" in base.irregular


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
