"""vLLM's kernels for the CPU (0.32), corrected where they compute something else than those for GPUs.

Adapters: vLLM marks a row of a batch that has no adapter with slot -1. Its GPU kernels skip such rows; its
PyTorch kernels for the CPU (`vllm/lora/ops/torch_ops/lora_ops.py`) use -1 as an index, so beside a request
for an adapter a request for the base is answered by whatever adapter sits in the last slot. They also copy
an adapter's matrices once for every token, which makes a prompt on the base of an engine that could serve
adapters many times slower. Here each slot that a batch uses is one matrix product, and slot -1 is none.

Rotary positions: the CPU's kernel reads queries of shape (tokens, heads, width) wrongly, and LFM2 and
DeepSeek V3 give them so; as (tokens, heads * width) they are right.

vLLM imports this module in each worker process because the engine names `CorrectedKernels` as its worker
extension; the import replaces the functions where they are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

Tensor: TypeAlias = Any


def used_slots(indices: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Each adapter slot of a batch with the rows (indices of dimension 0) that use it.

    `indices` is (rows,) or (1,) for all rows; -1 is no adapter.
    """
    each = indices.expand(rows)
    for slot in torch.unique(each).tolist():
        if slot >= 0:
            yield slot, torch.nonzero(each == slot).squeeze(1)


def product(inputs: Tensor, weights: Tensor, slot: int, rows: Tensor, like: Tensor) -> Tensor:
    """inputs[rows] (n, in) times the slot's matrix (out, in), transposed, in the type of `like`."""
    matrix = weights[slot].reshape(weights.shape[-2:])
    return inputs[rows].to(like.dtype) @ matrix.to(like.dtype).T


def bgmv_shrink(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    scaling: float = 1.0,
) -> None:
    """output (rows, >= rank) = scaling * inputs (rows, hidden) @ A[slot].T, zero without an adapter."""
    rank = lora_b_weights.shape[-2]
    output_tensor[:, :rank] = 0
    for slot, rows in used_slots(lora_indices_tensor, inputs.shape[0]):
        output_tensor[rows, :rank] = scaling * product(inputs, lora_b_weights, slot, rows, output_tensor)


def bgmv_expand(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    add_inputs: bool = True,
) -> None:
    """output (rows, out) += inputs (rows, rank) @ B[slot].T; adapter and model may pad `out` differently."""
    width = min(lora_b_weights.shape[-2], output_tensor.shape[1])
    _expand(inputs, lora_b_weights[..., :width, :], output_tensor[:, :width], lora_indices_tensor, add_inputs)


def bgmv_expand_slice(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """As bgmv_expand, into the columns [slice_offset, slice_offset + slice_size) of the output."""
    columns = output_tensor[:, slice_offset : slice_offset + slice_size]
    _expand(inputs, lora_b_weights, columns, lora_indices_tensor, add_inputs)


def _expand(inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, add_inputs: bool) -> None:
    if not add_inputs:
        output[: inputs.shape[0]] = 0
    for slot, rows in used_slots(indices, inputs.shape[0]):
        output.index_add_(0, rows, product(inputs, weights, slot, rows, output))


_rotate_flat = RotaryEmbedding.forward_cpu


def rotate(
    self: RotaryEmbedding, positions: Tensor, query: Tensor, key: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Rotated query and key, in the shapes that they came in: (tokens, heads, width) or without heads."""
    flat_key = None if key is None else key.reshape(len(positions), -1)
    rotated, rotated_key = _rotate_flat(self, positions, query.reshape(len(positions), -1), flat_key)
    return rotated.view(query.shape), None if key is None else rotated_key.view(key.shape)


class CorrectedKernels:
    """The worker extension vLLM asks for; it adds nothing to the worker itself."""


for _module in (lora_ops, punica_cpu):
    for _kernel in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        setattr(_module, _kernel.__name__, _kernel)
RotaryEmbedding.forward_cpu = rotate
