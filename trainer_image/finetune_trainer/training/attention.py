"""Attention over packed rows: each row sees only itself, nothing is padded, no mask is stored.

torch brings FlashAttention for rows of different lengths (`torch.nn.attention.varlen`); registered with
transformers it serves every model whose attention is plain causal softmax, without another package.
"""

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from finetune_trainer.base.config import BaseConfig
from finetune_trainer.training.cpu_attention import row_attention

PACKED = "finetune_packed"
_LARGEST_HEAD = 256  # FlashAttention's limit
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}
# How transformers names what a module keeps of earlier tokens while it generates.
_CACHES = {"past_key_values", "past_key_value", "layer_past", "cache_params", "cache"}


def unpacked_attention(base: BaseConfig) -> str | None:
    """transformers' attention for padded rows: "eager" where SDPA would leave something out.

    SDPA ignores a soft cap on the scores (Gemma 2). None lets transformers choose: SDPA, or "eager" for
    classes that do without (attention sinks of gpt-oss).
    """
    return "eager" if base.attention_softcap else None


def can_pack(decoder: nn.Module, base: BaseConfig) -> bool:
    """Whether rows that follow one another stay apart in every layer of a loaded language model.

    Only attention that goes through packed_attention knows where a row ends. Whatever else looks at earlier
    tokens (convolutions, linear attention, state spaces) keeps something of them while it generates, so its
    `forward` takes a cache: each layer must have exactly one such module, and that must be attention which
    the kernel computes. Layers of other kinds that transformers names (chunked_attention) are not packed.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not set(base.layer_types) <= _PLAIN_LAYERS:
        return False
    plain = not base.attention_softcap
    return plain and all(_is_plain_softmax(_looking_back(layer)) for layer in layers)


def _looking_back(layer: nn.Module) -> list[nn.Module]:
    """The modules of a layer whose output depends on earlier tokens."""
    return [
        module
        for module in layer.modules()
        if module is not layer and _CACHES & inspect.signature(module.forward).parameters.keys()
    ]


def _is_plain_softmax(modules: list[nn.Module]) -> bool:
    if len(modules) != 1:
        return False
    attention = modules[0]
    head = getattr(attention, "head_dim", None)  # models with other widths for values have none
    sinks = any(True for _ in attention.parameters(recurse=False))
    causal = getattr(attention, "is_causal", False) and not getattr(attention, "is_cross_attention", False)
    return isinstance(head, int) and head <= _LARGEST_HEAD and causal and not sinks


def register(cuda: bool) -> None:
    """Make PACKED known to transformers, as an attention that needs no mask."""
    AttentionInterface.register(PACKED, packed_attention if cuda else packed_attention_on_cpu)
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

    The borders of the rows come from the Collator; keys and values may have fewer heads than queries.
    """
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        *(tensor[0].transpose(0, 1) for tensor in _of_one_type(query, key, value)),
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.unsqueeze(0), None


def packed_attention_on_cpu(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The same where FlashAttention does not run."""
    query, key, value = _of_one_type(query, key, value)
    scaled = query[0] * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    out = row_attention(scaled, key[0], value[0], cu_seq_lens_q, sliding_window or 0)
    return out.transpose(0, 1).unsqueeze(0), None


def _of_one_type(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Autocast's type for all, as in torch's own attention: in an fp32 model rotations make fp32 of two."""
    return query.to(value.dtype), key.to(value.dtype), value


def keep_only_attention(model: PreTrainedModel) -> None:
    """Selective gradient checkpointing: the backward pass computes all again but attention's outputs.

    TRL's setting of this name knows torch's attention for padded rows only. Eager attention (Gemma 2) is no
    operator of its own and is computed again.
    """
    kept = set(_attention_operators())

    def policy(_: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operator in kept else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = partial(create_selective_checkpoint_contexts, policy)
    model.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": contexts}
    )


def _attention_operators() -> Iterator[Any]:
    """The operators that compute attention here: torch's for padded rows, and those for packed ones."""
    from torch.nn.attention import varlen

    yield torch.ops.aten._scaled_dot_product_flash_attention.default
    yield torch.ops.aten._scaled_dot_product_efficient_attention.default
    yield torch.ops.aten._scaled_dot_product_cudnn_attention.default
    yield torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    yield varlen._varlen_attn._opoverload
    yield torch.ops.finetune.row_attention.default
