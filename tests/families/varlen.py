"""torch's kernel for rows of different lengths, which needs a GPU, computed row by row on the CPU."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch.nn.attention.varlen.varlen_attn for causal rows of (tokens, heads, width) tensors."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert window_size[1] == 0, "not causal"
    rows = zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True)
    parts = [
        _row(*(tensor[start:end] for tensor in (query, key, value)), scale, window_size[0], enable_gqa)
        for start, end in rows
    ]
    return torch.cat(parts)


def _row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    before: int,
    enable_gqa: bool,
) -> torch.Tensor:
    places = torch.arange(len(query))
    distance = places[:, None] - places[None, :]
    seen = (distance >= 0) & (
        distance <= before if before >= 0 else torch.ones_like(distance, dtype=torch.bool)
    )
    heads = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
    out = scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
    return out[0].transpose(0, 1)
