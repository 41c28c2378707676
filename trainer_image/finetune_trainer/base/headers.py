"""Names, types and shapes of a base model's weights, by the headers of its safetensors files alone."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from finetune_trainer.errors import UserError
from finetune_trainer.fingerprint import fingerprint, is_weight_file

_LEFT_OUT = ("rotary_emb.inv_freq", "mtp.")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a header; `dtype` as safetensors names it (BF16, F32, ...)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


Headers = Mapping[str, Tensor]


def read_headers(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors by name, {} without any; UserError for a broken file."""
    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        tensors |= _read_header(path)
    return tensors


def _files(folder: Path) -> list[Path]:
    """The files that the index names, else all that transformers and the engine read."""
    index = folder / _INDEX
    if not index.is_file():
        return sorted(path for path in folder.glob("*.safetensors") if is_weight_file(path.name))
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
        with safe_open(path, framework="np") as file:
            slices = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118
            return {name: Tensor(entry.get_dtype(), tuple(entry.get_shape())) for name, entry in slices}
    except OSError as error:
        raise UserError(f"The base model's {path.name} cannot be read ({error}).") from error
    except SafetensorError as error:
        text = f"The base model's {path.name} is no whole safetensors file ({error})"
        raise UserError(f"{text}; fetch the model again.") from error


def read_fingerprint(folder: Path) -> str:
    """The fingerprint of a base model's folder; UserError when one of its weight files is not whole."""
    try:
        return fingerprint(folder)
    except (ValueError, NotADirectoryError) as error:
        raise UserError(f"The base model cannot be used: {error}; fetch it again.") from error


def loaded_tensors(headers: Headers) -> dict[str, Tensor]:
    """The tensors that transformers loads, without buffers of old versions and heads for further tokens."""
    return {name: tensor for name, tensor in headers.items() if not _is_left_out(name)}


def modules_of(headers: Headers) -> dict[str, tuple[int, ...]]:
    """Modules by name with the shape of their weight, as `adapter_targets` takes them."""
    suffix = ".weight"
    return {name[: -len(suffix)]: t.shape for name, t in headers.items() if name.endswith(suffix)}


def _is_left_out(name: str) -> bool:
    return name.startswith(_LEFT_OUT) or name.endswith(_LEFT_OUT)
