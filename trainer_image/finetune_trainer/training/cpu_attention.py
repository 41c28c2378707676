"""Attention over packed rows on a CPU, as products of matrices.

torch's attention for CPUs takes 2.2 times as long in rows of 90 to 500 tokens and 1.5 times in rows of 3,000
(bf16, forward and backward, one core with AVX-512): its tiles are small. Here 128 queries meet all their keys
at once, and the backward pass computes the probabilities again, so that memory stays linear in the tokens.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch

_QUERIES = 128  # a block's; 64 and 192 take longer in rows of 200 to 1,000 tokens


class _Block(NamedTuple):
    """Neighbouring queries of one row, and all keys that any of them sees; both end with the same token."""

    queries: slice
    keys: slice


def row_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, window: int
) -> torch.Tensor:
    """Causal softmax attention within rows: (heads, tokens, width) of scaled queries, same shape out.

    Keys and values may have fewer heads; neighbouring heads of the queries share one. `borders` (rows + 1)
    are where rows start and the last one ends. A query sees `window` tokens, itself included; 0: its row.
    """
    out: torch.Tensor = _forward_operator(query, key, value, borders, window)
    return out


def _forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, window: int
) -> torch.Tensor:
    out = torch.empty((*query.shape[:2], value.shape[2]), dtype=value.dtype)
    for queries, keys in _blocks(borders, window):
        seen = _probabilities(query[:, queries], key[:, keys], window)
        out[:, queries] = torch.bmm(seen, value[:, keys]).view(len(out), -1, value.shape[2])
    return out


def _backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of queries, keys and values; the blocks' parts of one key are added up in fp32."""
    precise = torch.promote_types(query.dtype, torch.float32)
    of_query = torch.empty(query.shape, dtype=query.dtype)
    of_key, of_value = (torch.zeros(tensor.shape, dtype=precise) for tensor in (key, value))
    for queries, keys in _blocks(borders, window):
        seen = _probabilities(query[:, queries], key[:, keys], window)
        out = _grouped(gradient[:, queries], len(key))
        of_value[:, keys] += torch.bmm(seen.transpose(1, 2), out)
        of_seen = torch.bmm(out, value[:, keys].transpose(1, 2))
        scores = torch.ops.aten._softmax_backward_data(of_seen, seen, -1, seen.dtype)
        of_query[:, queries] = torch.bmm(scores, key[:, keys]).view(len(query), -1, query.shape[2])
        of_key[:, keys] += torch.bmm(scores.transpose(1, 2), _grouped(query[:, queries], len(key)))
    return of_query, of_key.to(key.dtype), of_value.to(value.dtype)


def _blocks(borders: torch.Tensor, window: int) -> Iterator[_Block]:
    for first, end in pairwise(borders.tolist()):
        for start in range(first, end, _QUERIES):
            stop = min(start + _QUERIES, end)
            seen = max(first, start - window + 1) if window else first
            yield _Block(slice(start, stop), slice(seen, stop))


def _probabilities(query: torch.Tensor, key: torch.Tensor, window: int) -> torch.Tensor:
    """(heads of keys, queries of the heads that share one, keys)."""
    queries, keys = query.shape[1], key.shape[1]
    scores = torch.bmm(_grouped(query, len(key)), key.transpose(1, 2))
    by_head = scores.view(len(query), queries, keys)
    # Only a block's own tokens can come after a query.
    later = torch.ones((queries, queries), dtype=torch.bool).triu(1)
    by_head[:, :, keys - queries :].masked_fill_(later, -torch.inf)
    if window:
        distant = torch.ones((queries, keys), dtype=torch.bool).tril(keys - queries - window)
        by_head.masked_fill_(distant, -torch.inf)
    return torch.softmax(scores, dim=-1)


def _grouped(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """Heads that share keys one after the other: (groups, their tokens, width)."""
    return heads.reshape(groups, -1, heads.shape[2])


def _forward_shape(
    query: torch.Tensor, _key: torch.Tensor, value: torch.Tensor, _borders: torch.Tensor, _window: int
) -> torch.Tensor:
    return value.new_empty((*query.shape[:2], value.shape[2]))


def _backward_shapes(
    _gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _borders: torch.Tensor,
    _window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001 - torch's names
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (*_backward_operator(gradient, *ctx.saved_tensors, ctx.window), None, None)


# As operators torch.compile takes them as they are.
_forward_operator = torch.library.custom_op("finetune::row_attention", _forward, mutates_args=())
_backward_operator = torch.library.custom_op("finetune::row_attention_backward", _backward, mutates_args=())
_forward_operator.register_fake(_forward_shape)
_backward_operator.register_fake(_backward_shapes)
_forward_operator.register_autograd(_gradients, setup_context=_keep)
