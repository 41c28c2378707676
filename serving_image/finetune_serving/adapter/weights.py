"""The header of a safetensors file, and how large the values of its tensors are.

Read without the safetensors library: it would map whole files and say of a bad one only that it is bad. The
rules are those of the format (8 bytes of length, a JSON object, the data without holes or overlap).
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

_LENGTH_BYTES = 8
_ELEMENTS = 1024 * 1024
_ROUNDING = 2.0**-7  # of bfloat16, twice
_LONGEST_NAME = 500
_CHUNK = 4 * 1024 * 1024
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip

Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


@dataclass(frozen=True)
class _Float:
    """How a type lays out its numbers: without the sign bit they are ordered as unsigned integers.

    `infinite` is the smallest pattern that is no finite number.
    """

    unsigned: type[np.unsignedinteger]
    infinite: int
    exponent_bits: int


# Floating types that hold a trained matrix; the others are packed or no numbers.
_FLOATS = {
    "F64": _Float(np.uint64, 0x7FF0_0000_0000_0000, 11),
    "F32": _Float(np.uint32, 0x7F80_0000, 8),
    "F16": _Float(np.uint16, 0x7C00, 5),
    "BF16": _Float(np.uint16, 0x7F80, 8),
    "F8_E5M2": _Float(np.uint8, 0x7C, 5),
    "F8_E4M3": _Float(np.uint8, 0x7F, 4),
}
# Types whose numbers can be compared with each other's.
COMPARABLE = frozenset({"F64", "F32", "F16", "BF16"})


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[Size, ...], msgspec.Meta(max_length=8)]
    data_offsets: tuple[Size, Size]


# msgspec, as a header may have a hundred thousand entries and the gateway waits while they are read.
_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY = msgspec.json.Decoder(_Entry)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file: `start` is its first byte from the beginning of the file, `size` its bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def is_float(self) -> bool:
        """Whether its elements are numbers of the shape it states, not codes of a quantisation."""
        return self.dtype in _FLOATS

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix of such numbers."""
        return self.is_float and len(self.shape) == 2


def read_header(file: IO[bytes], limit: int) -> dict[str, Tensor]:
    """All tensors by name; ValueError says what is wrong. `limit` is the longest header allowed, in bytes."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    start = _LENGTH_BYTES + length
    if size < _LENGTH_BYTES or start > size:
        raise ValueError(f"it has {size} bytes, which is less than its header says; it is cut off")
    if length > limit:
        raise ValueError(f"its header has {length} bytes, more than {limit}")
    tensors = dict(_tensors(file.read(length), start))
    _check_layout(tensors, start, size)
    return tensors


def _tensors(header: bytes, start: int) -> Iterator[tuple[str, Tensor]]:
    try:
        entries = _HEADER.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"its header is no JSON object: {error}") from error
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"the name {name[:100]}... has {len(name)} characters")
        try:
            yield name, _tensor(name, _ENTRY.decode(entry), start)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"its header is wrong at {name}: {error}") from error


def _tensor(name: str, entry: _Entry, start: int) -> Tensor:
    begin, end = entry.data_offsets
    bits = _BITS.get(entry.dtype)  # a newer format may have more types; the engine may know them
    if end < begin or (bits is not None and math.prod(entry.shape) * bits != (end - begin) * 8):
        raise ValueError(f"{name} has {end - begin} bytes, not those of {entry.dtype} {list(entry.shape)}")
    return Tensor(entry.dtype, entry.shape, start + begin, end - begin)


def _check_layout(tensors: dict[str, Tensor], start: int, size: int) -> None:
    """The tensors must follow each other to the end of the file, so that no byte is two weights or none."""
    place = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if tensor.start != place:
            raise ValueError(f"{name} does not begin where the tensor before it ends")
        place += tensor.size
    if place != size:
        raise ValueError(f"its tensors end at byte {place}, the file at {size}")


def peak(file: IO[bytes], tensor: Tensor) -> float:
    """The largest magnitude in a floating tensor: 0.0 when all are zero, infinity when one is not finite."""
    layout = _FLOATS[tensor.dtype]
    magnitude = np.iinfo(layout.unsigned).max >> 1  # all bits but the sign's
    largest = 0
    for chunk in chunks(file, tensor):
        bits = np.frombuffer(chunk, layout.unsigned)
        largest = max(largest, int(np.bitwise_and(bits, layout.unsigned(magnitude)).max()))
    return math.inf if largest >= layout.infinite else _value(largest, layout)


def _value(pattern: int, layout: _Float) -> float:
    """The number that a pattern without a sign stands for."""
    mantissa_bits = np.iinfo(layout.unsigned).bits - 1 - layout.exponent_bits
    exponent, mantissa = pattern >> mantissa_bits, pattern & ((1 << mantissa_bits) - 1)
    bias = (1 << (layout.exponent_bits - 1)) - 1
    lead = 1 if exponent else 0
    return math.ldexp((lead << mantissa_bits) + mantissa, max(exponent, 1) - bias - mantissa_bits)


def same_values(file: IO[bytes], tensor: Tensor, other_file: IO[bytes], other: Tensor) -> bool:
    """Whether two COMPARABLE tensors of one shape hold the same numbers, as far as the coarser type tells."""
    if tensor.dtype == other.dtype:
        return all(a == b for a, b in zip(chunks(file, tensor), chunks(other_file, other), strict=True))
    pairs = zip(_numbers(file, tensor), _numbers(other_file, other), strict=True)
    return all(np.allclose(a, b, rtol=_ROUNDING, atol=0.0) for a, b in pairs)


def _numbers(file: IO[bytes], tensor: Tensor) -> Iterator[NDArray[np.float32]]:
    """The values of a tensor as float32, an equal number of them at a time for every type."""
    item = np.dtype(_FLOATS[tensor.dtype].unsigned).itemsize
    for chunk in chunks(file, tensor, _ELEMENTS * item):
        if tensor.dtype == "BF16":
            yield (np.frombuffer(chunk, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            yield np.frombuffer(chunk, f"f{item}").astype(np.float32)


def chunks(file: IO[bytes], tensor: Tensor, most: int = _CHUNK) -> Iterator[bytes]:
    """The bytes of a tensor, at most `most` at a time; ValueError when the file has become shorter."""
    file.seek(tensor.start)
    left = tensor.size
    while left:
        chunk = file.read(min(left, most))
        if not chunk:
            raise ValueError("it became shorter while it was read")
        left -= len(chunk)
        yield chunk
