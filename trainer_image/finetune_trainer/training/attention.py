"""Attention over packed rows: each row sees only itself, nothing is padded, no mask is stored.

torch brings FlashAttention for rows of different lengths (`torch.nn.attention.varlen`); registered with
transformers it serves every model whose attention is plain causal softmax, without another package.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from finetune_trainer.training.cpu_attention import row_attention

PACKED = "finetune_packed"
_LARGEST_HEAD = 256  # FlashAttention's limit


def can_pack(model: Path) -> bool:
    """Whether the kernel computes the model's attention: no soft cap, no sinks, heads not too wide."""
    config = json.loads((model / "config.json").read_bytes())
    text = config.get("text_config") or config
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    special = text.get("attn_logit_softcapping") or config.get("model_type") == "gpt_oss"
    return head <= _LARGEST_HEAD and not special


def register() -> None:
    """Make PACKED known to transformers, as an attention that needs no mask."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, lambda *_, **__: None)


def packed_attention(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of (1, heads, tokens, width) tensors; gives (1, tokens, heads, width).

    The borders of the rows come from the Collator. Keys and values of grouped heads are repeated, since
    the kernel of older torch versions takes no groups.
    """
    if not query.is_cuda:
        scaled = query[0] * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        out = row_attention(scaled, key[0], value[0], cu_seq_lens_q, sliding_window or 0)
        return out.transpose(0, 1).unsqueeze(0), None
    from torch.nn.attention.varlen import varlen_attn

    groups = query.shape[1] // key.shape[1]
    rows = [tensor[0].transpose(0, 1) for tensor in (query, _repeat(key, groups), _repeat(value, groups))]
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    out = varlen_attn(
        *rows,
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=window,
    )
    return out.unsqueeze(0), None


def _repeat(heads: torch.Tensor, groups: int) -> torch.Tensor:
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)
