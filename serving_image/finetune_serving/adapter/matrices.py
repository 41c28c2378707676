"""The LoRA matrices that an adapter's tensors are, by the module that they belong to."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from finetune_serving.adapter.weights import Tensor
from finetune_serving.agent.refusal import RefusedError

_PREFIX = "base_model.model."
_MATRIX = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<table>[AB]))", re.DOTALL
)
# PEFT saves these beside the matrices when it trained an embedding or enlarged it; the engine skips them.
_COPIED = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
_SHOWN = 3


@dataclass(frozen=True)
class _Half:
    """What the name of a tensor says: one of the two matrices of a module, see `Pair`."""

    module: str
    letter: str
    table: bool


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
    copied = {name: tensor for name, tensor in tensors.items() if name.endswith(_COPIED)}
    halves = {name: _half_of(name) for name in tensors if name not in copied}
    if strange := [name for name, half in halves.items() if half is None]:
        text = (
            f"No LoRA matrices, so the engine cannot apply them: {counted(strange, len(tensors), 'tensors')}"
        )
        raise RefusedError("UnsupportedAdapter", f"{text}; train with LoRA alone.")
    own = {_module(name.removesuffix(".base_layer.weight")): tensor for name, tensor in copied.items()}
    return Matrices(_pairs({name: half for name, half in halves.items() if half}, tensors), own)


def _pairs(halves: Mapping[str, _Half], tensors: Mapping[str, Tensor]) -> dict[str, Pair]:
    if not halves:
        raise RefusedError("InvalidArtifact", "The adapter holds no tensors of LoRA matrices; save it again.")
    modules: defaultdict[str, list[tuple[_Half, Tensor]]] = defaultdict(list)
    for name, half in sorted(halves.items()):
        modules[half.module].append((half, tensors[name]))
    _check_whole(modules)
    pairs = {module: sorted(both, key=lambda each: each[0].letter) for module, both in modules.items()}
    return {module: Pair(a, b, half.table) for module, ((half, a), (_, b)) in pairs.items()}


def _half_of(name: str) -> _Half | None:
    if found := _MATRIX.fullmatch(name):
        return _Half(_module(found["module"]), found["linear"] or found["table"], found["table"] is not None)
    return None


def counted(names: Collection[str], total: int, what: str) -> str:
    """`5 of 14 modules (a, b, c and 2 more)`."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} of {total} {what} ({', '.join(list(names)[:_SHOWN])}{more})"


def _module(name: str) -> str:
    """A module's name without PEFT's prefix, which vLLM removes wherever it stands."""
    return name.replace(_PREFIX, "") if name.startswith(_PREFIX) else name


def _check_whole(modules: Mapping[str, Sequence[tuple[_Half, Tensor]]]) -> None:
    total = len(modules)
    if odd := [module for module, found in modules.items() if not _is_pair([half for half, _ in found])]:
        text = f"Without exactly one matrix A and one B: {counted(odd, total, 'modules')}"
        raise RefusedError("InvalidArtifact", f"{text}; save the adapter again.")
    if empty := [module for module, found in modules.items() if not all(each.size for _, each in found)]:
        text = f"Saved empty, as by DeepSpeed ZeRO-3 without gathering: {counted(empty, total, 'modules')}"
        raise RefusedError("InvalidArtifact", f"{text}; gather the parameters and save the adapter again.")
    if other := [module for module, found in modules.items() if not all(each.is_matrix for _, each in found)]:
        text = f"No matrices of floating-point numbers: {counted(other, total, 'modules')}"
        raise RefusedError("UnsupportedAdapter", f"{text}; save the adapter in float32 or bfloat16.")


def _is_pair(halves: Sequence[_Half]) -> bool:
    return sorted(half.letter for half in halves) == ["A", "B"] and halves[0].table == halves[1].table
