"""Tiny random models with the architecture classes of real ones, as folders that the trainer can load."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKENS = 256
_SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": TOKENS, "max_position_embeddings": 256,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 255, "tie_word_embeddings": False,
}  # fmt: skip
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
# model_type and what is beside the sizes above
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_tied": {"tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "gemma2": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
    },
    "mixtral": {"num_local_experts": 4, **_EXPERTS},
    "qwen3_moe": {"num_experts": 4, **_EXPERTS},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 32, **_EXPERTS},
    "gpt_oss": {"num_local_experts": 4, "sliding_window": 8, **_EXPERTS},
    "deepseek_v3": {
        "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
        "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
        "num_key_value_heads": 4, "head_dim": 8, **_EXPERTS,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "norm_eps": 1e-5},
    "qwen3_next": {
        "num_experts": 4, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1,
        "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 2, **_EXPERTS,
    },
}  # fmt: skip


def make_text_model(folder: Path, family: str, seed: int = 0) -> Path:
    """A model of FAMILIES with its tokenizer."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = family.removesuffix("_tied")
    config = CONFIG_MAPPING[kind](**{**_SIZES, **FAMILIES[family]})
    return _save(folder, lambda: AutoModelForCausalLM.from_config(config), seed)


def make_multimodal_model(folder: Path, family: str, seed: int = 0) -> Path:
    """A gemma3 or mistral3 with a vision tower of one layer."""
    from transformers import AutoModelForImageTextToText
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    text, vision, more = {
        "gemma3": ("gemma3_text", "siglip_vision_model", {"mm_tokens_per_image": 4}),
        "mistral3": ("mistral", "pixtral", {"image_token_index": 7}),
    }[family]
    config = CONFIG_MAPPING[family](
        text_config=CONFIG_MAPPING[text](**{**_SIZES, **FAMILIES.get(text, {})}),
        vision_config=CONFIG_MAPPING[vision](**_VISION),
        **more,
    )
    return _save(folder, lambda: AutoModelForImageTextToText.from_config(config), seed)


def _save(folder: Path, build: Callable[[], Any], seed: int) -> Path:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(seed)
    build().save_pretrained(folder)
    vocabulary = {f"w{number}": number for number in range(TOKENS - 1)} | {"<eos>": TOKENS - 1}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>").save_pretrained(folder)
    return folder
