"""The LoRA matrices that an adapter's tensors are, by the module that they belong to."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from finetune_serving.adapter.weights import Tensor
from finetune_serving.agent.refusal import RefusedError

_PREFIX = "base_model.model."
_MATRIX = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<table>[AB]))", re.DOTALL
)
# PEFT saves these beside the matrices when it trained an embedding or enlarged it; the engine skips them.
_COPIED = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
_SHOWN = 3

Half = Literal["A", "B"]


@dataclass(frozen=True)
class Pair:
    """The two matrices of one module; `table` when the module is an embedding, whose A is (rank, tokens)."""

    a: Tensor
    b: Tensor
    table: bool

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight it belongs to: (outputs, inputs), of an embedding (tokens, width)."""
        inputs, outputs = self.a.shape[1], self.b.shape[0]
        return (inputs, outputs) if self.table else (outputs, inputs)


@dataclass(frozen=True)
class Matrices:
    """What an adapter holds by module: pairs, and copies of the base's embeddings."""

    pairs: Mapping[str, Pair]
    copied: Mapping[str, Tensor]


def matrices_of(tensors: Mapping[str, Tensor]) -> Matrices:
    """Sort an adapter's tensors; RefusedError when some are no LoRA matrices, empty or without their half."""
    if not tensors:
        raise RefusedError("InvalidArtifact", "The adapter holds no tensors; save it again.")
    copied = {name: tensor for name, tensor in tensors.items() if name.endswith(_COPIED)}
    found = {name: _MATRIX.fullmatch(name) for name in tensors.keys() - copied.keys()}
    if strange := sorted(name for name, match in found.items() if match is None):
        text = (
            f"The engine cannot apply {counted(strange, len(tensors), 'tensors')}: they are no LoRA matrices."
        )
        raise RefusedError("UnsupportedAdapter", f"{text} Train with LoRA alone.")
    halves: defaultdict[str, dict[Half, Tensor]] = defaultdict(dict)
    tables = set()
    for name, match in sorted(found.items()):
        assert match is not None
        module = _module(match["module"])
        halves[module][cast("Half", match["linear"] or match["table"])] = tensors[name]
        if match["table"]:
            tables.add(module)
    _check_whole(halves)
    pairs = {module: Pair(both["A"], both["B"], module in tables) for module, both in halves.items()}
    return Matrices(
        pairs, {_module(name.removesuffix(".base_layer.weight")): t for name, t in copied.items()}
    )


def counted(names: Collection[str], total: int, what: str) -> str:
    """`5 of 14 modules (a, b, c and 2 more)`."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} of {total} {what} ({', '.join(list(names)[:_SHOWN])}{more})"


def _module(name: str) -> str:
    """A module's name without PEFT's prefix, which vLLM removes wherever it stands."""
    return name.replace(_PREFIX, "") if name.startswith(_PREFIX) else name


def _check_whole(halves: Mapping[str, Mapping[Half, Tensor]]) -> None:
    if single := [module for module, both in halves.items() if len(both) < 2]:
        text = f"Only one of the matrices A and B is there for {counted(single, len(halves), 'modules')}"
        raise RefusedError("InvalidArtifact", f"{text}; save the adapter again.")
    if empty := [module for module, both in halves.items() if not all(half.size for half in both.values())]:
        text = (
            f"The adapter was saved empty for {counted(empty, len(halves), 'modules')}, as DeepSpeed ZeRO-3"
        )
        text += " does while it has the parameters spread over processes"
        raise RefusedError("InvalidArtifact", f"{text}; gather them and save it again.")
    if odd := [module for module, both in halves.items() if not all(map(_is_matrix, both.values()))]:
        text = f"What is stored for {counted(odd, len(halves), 'modules')} are not matrices of floating-point"
        raise RefusedError("UnsupportedAdapter", f"{text} numbers; save the adapter in float32 or bfloat16.")


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.is_float and len(tensor.shape) == 2
