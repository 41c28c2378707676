"""The modules of a base model by the headers of its weights, so that an adapter can be compared with them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

from finetune_serving.adapter.weights import Tensor, read_header
from finetune_serving.fingerprint import COPIES

_INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100 * 1000 * 1000  # what the format allows
_NUMBERED = re.compile(r"(?P<stack>.+?)\.(?P<layer>[0-9]+)\.(?P<inner>.+)")
EXPERTS = "experts"
_OBJECT = TypeAdapter(dict[str, JsonValue])

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a module is: in layer `layer` of `stack`, or outside of all layers (`stack` "", `layer` -1).

    The experts that a router chooses from are one module, `experts`: checkpoints, transformers and the engine
    each name and stack them in their own way.
    """

    stack: str
    layer: int
    inner: str


@dataclass(frozen=True)
class StoredTensor:
    """A tensor and the file that holds it."""

    path: Path
    tensor: Tensor


@dataclass(frozen=True)
class BaseModules:
    """A base's modules with the shape of their weight, (outputs, inputs); None where it is stored packed.

    `composite` says that config.json holds several models, such as a vision tower beside a language model;
    `absorbed` are modules, by the last part of their name, whose adapter the engine would not apply;
    `stored` are the matrices outside of layers (embedding, output head) by module.
    A base of which nothing is known has no modules; nothing can be refused by it.
    """

    shapes: Mapping[Place, Shape | None] = field(default_factory=dict)
    composite: bool = False
    absorbed: frozenset[str] = frozenset()
    stored: Mapping[str, StoredTensor] = field(default_factory=dict)


def place_of(module: str) -> Place:
    """Split a module's name at its first number."""
    found = _NUMBERED.fullmatch(module)
    if found is None:
        return Place("", -1, module)
    inner = EXPERTS if EXPERTS in found["inner"].split(".") else found["inner"]
    return Place(found["stack"], int(found["layer"]), inner)


def read_base(folder: Path) -> BaseModules:
    """The modules of a base model's folder; OSError or ValueError when its files cannot be read."""
    config = _object(folder / "config.json")
    parts = [value for value in config.values() if isinstance(value, dict)]
    tensors = {name: found for path in _files(folder) for name, found in _tensors(path).items()}
    latent = any(part.get("kv_lora_rank") for part in (config, *parts))
    stored = _with_head(_matrices_outside(tensors))
    heads: dict[Place, Shape | None] = {place_of(name): found.tensor.shape for name, found in stored.items()}
    return BaseModules(
        _shapes(tensors) | heads,
        composite=any({"model_type", "hidden_size"} & part.keys() for part in parts),
        # vLLM multiplies this matrix into others when it loads a base with latent attention.
        absorbed=frozenset({"kv_b_proj"} if latent else ()),
        stored=stored,
    )


def _object(path: Path) -> dict[str, JsonValue]:
    return _OBJECT.validate_json(path.read_bytes())


def _files(folder: Path) -> list[Path]:
    """The files that the index names, which is what the engine loads, else all that hold weights."""
    if (folder / _INDEX).is_file():
        named = _object(folder / _INDEX).get("weight_map")
        if isinstance(named, dict):
            return [folder / Path(name).name for name in sorted({str(name) for name in named.values()})]
    return sorted(path for path in folder.glob("*.safetensors") if not path.match(COPIES))


def _tensors(path: Path) -> dict[str, StoredTensor]:
    try:
        with path.open("rb") as file:
            header = read_header(file, _LONGEST_HEADER)
    except ValueError as error:
        raise ValueError(f"{path.name} is not a whole safetensors file: {error}; fetch it again.") from error
    return {name: StoredTensor(path, tensor) for name, tensor in header.items()}


def _matrices_outside(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Weights outside of layers with two dimensions, stored as numbers, by module."""
    return {
        name.removesuffix(".weight"): found
        for name, found in tensors.items()
        if name.endswith(".weight") and not place_of(name).stack and found.tensor.is_matrix
    }


def _with_head(matrices: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """A model that stores no output head uses its embedding as one: the largest matrix outside of layers."""
    if not matrices or any(name.rpartition(".")[2] == "lm_head" for name in matrices):
        return matrices
    return matrices | {"lm_head": max(matrices.values(), key=lambda found: math.prod(found.tensor.shape))}


def _shapes(tensors: Mapping[str, StoredTensor]) -> dict[Place, Shape | None]:
    """Every module that holds tensors; experts as one of unknown shape, see `place_of`."""
    shapes: dict[Place, Shape | None] = {}
    for name, stored in tensors.items():
        module, _, kind = name.rpartition(".")
        place = place_of(module)
        plain = kind == "weight" and stored.tensor.is_float and len(stored.tensor.shape) <= 2
        if plain and place.inner != EXPERTS:
            shapes[place] = stored.tensor.shape
        else:
            shapes.setdefault(place, None)
    return shapes
