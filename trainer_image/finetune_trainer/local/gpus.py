"""GPUs by name: those of an administrator's table, else what data sheets say of common ones. No prices."""

import argparse
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from finetune_trainer.contracts import AcceleratorSpec, GpuSpec
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


# Memory that CUDA offers (GiB) and the dense bf16 peak (TFLOP/s) of NVIDIA's data sheets.
_CARDS = {
    name: GpuType(memory_gib=memory, peak_tflops=peak)
    for name, memory, peak in (
        ("b200", 178.0, 2250),
        ("h200", 139.8, 989),
        ("h100", 79.1, 989),
        ("a100-80gb", 79.1, 312),
        ("a100-40gb", 39.4, 312),
        ("l40s", 44.4, 362),
        ("a10", 22.0, 125),
        ("l4", 22.0, 121),
    )
}


def known_gpus(table: Path | None) -> Mapping[str, GpuType]:
    """The GPUs of a file (the values of the chart, or its `gpuTypes` alone), else of the data sheets.

    UserError for a file that holds no such table.
    """
    return _CARDS if table is None else _read(table)


def accelerator(
    options: argparse.Namespace, name: str | None, known: Mapping[str, GpuType], *, spot: bool = False
) -> AcceleratorSpec:
    """The GPU of that name; what flags say replaces its figures. UserError when it is not known."""
    # A type that only the cluster knows may be described by flags alone.
    described = options.gpu_memory_gib is not None and not (options.gpu or options.gpu_types)
    kind = GpuType() if name is None or described else _named(name, known)
    listed = kind.spot_price_per_hour if spot else kind.price_per_hour
    return AcceleratorSpec(
        name=name or "GPU",
        memory_gib=options.gpu_memory_gib or kind.memory_gib,
        peak_tflops=options.gpu_peak_tflops or kind.peak_tflops,
        price_per_hour=options.price_per_hour or listed,
        currency=kind.currency,
        spot=spot,
    )


def other_gpus(name: str, known: Mapping[str, GpuType]) -> tuple[GpuSpec, ...]:
    """The others whose memory is known."""
    return tuple(
        GpuSpec(name=other, memory_gib=kind.memory_gib)
        for other, kind in known.items()
        if kind.memory_gib is not None and kind is not _find(name, known)
    )


def _named(name: str, known: Mapping[str, GpuType]) -> GpuType:
    kind = _find(name, known)
    if kind is None:
        text = f"The GPU {name} is none of {', '.join(sorted(known))}"
        raise UserError(f"{text}; give --gpu-memory-gib and --gpu-peak-tflops, or --gpu-types FILE with it.")
    return kind


def _find(name: str, known: Mapping[str, GpuType]) -> GpuType | None:
    """The names of an administrator's table are labels; those of data sheets are written in any case."""
    return known.get(name.lower() if known is _CARDS else name)


def _read(path: Path) -> dict[str, GpuType]:
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
