"""GPUs by name: those of an administrator's table, else what data sheets say of common ones. No prices."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from finetune_trainer.contracts import GpuSpec
from finetune_trainer.contracts.document import Document
from finetune_trainer.contracts.job import sentences
from finetune_trainer.errors import UserError

_Price = Annotated[Decimal, Field(ge=0)]


class GpuType(Document):
    """An entry of the chart's `gpuTypes`; where its nodes are does not matter here."""

    resource_name: str | None = None
    node_selector: dict[str, str] | None = None
    memory_gib: float | None = Field(None, alias="memoryGiB", gt=0)
    peak_tflops: float | None = Field(None, gt=0)
    price_per_hour: _Price | None = None
    spot_price_per_hour: _Price | None = None
    currency: str | None = None


@dataclass(frozen=True)
class _Card:
    """Memory that CUDA offers (GiB) and the dense bf16 peak (TFLOP/s) of NVIDIA's data sheets."""

    memory_gib: float
    peak_tflops: float


_CARDS = {
    "b200": _Card(178.0, 2250),
    "h200": _Card(139.8, 989),
    "h100": _Card(79.1, 989),
    "a100-80gb": _Card(79.1, 312),
    "a100-40gb": _Card(39.4, 312),
    "l40s": _Card(44.4, 362),
    "a10": _Card(22.0, 125),
    "l4": _Card(22.0, 121),
}


def other_gpus(name: str, table: Path | None) -> tuple[GpuSpec, ...]:
    """The other GPUs of the table, when given, else of the data sheets, whose memory is known."""
    sizes = (
        {known: kind.memory_gib for known, kind in _read(table).items()}
        if table
        else {known: card.memory_gib for known, card in _CARDS.items()}
    )
    return tuple(
        GpuSpec(name=known, memory_gib=size)
        for known, size in sizes.items()
        if size is not None and known != (name if table else name.lower())
    )


def known_gpu(name: str, table: Path | None) -> GpuType:
    """The GPU of that name in the administrator's table, when given, else of the data sheets; UserError."""
    types = _read(table) if table else {}
    if name in types:
        return types[name]
    card = _CARDS.get(name.lower())
    if card is None or table:
        known = ", ".join(sorted(types) if table else _CARDS)
        where = f"in {table}" if table else "here"
        text = f"The GPU {name} is not known {where} ({known})"
        raise UserError(f"{text}; give --gpu-memory-gib and --gpu-peak-tflops, or --gpu-types FILE with it.")
    return GpuType(memory_gib=card.memory_gib, peak_tflops=card.peak_tflops)


def _read(path: Path) -> dict[str, GpuType]:
    """The table of a file: the values of the chart, the operator's settings, or `gpuTypes` alone."""
    try:
        document: Any = yaml.safe_load(path.read_bytes())
        table = document.get("gpuTypes", document)
        return {str(name): GpuType.model_validate(entry or {}) for name, entry in table.items()}
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give the table with --gpu-types."
        ) from error
    except ValidationError as error:
        raise UserError(f"{path}: {sentences(error)}") from error
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        text = f"{path} holds no table of GPU types"
        raise UserError(f"{text}; give the chart's values, or name: {{memoryGiB: 80, …}} in YAML.") from error
