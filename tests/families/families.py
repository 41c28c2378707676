"""The families that are tried: what makes each of them different, in the sizes of a toy.

A row names the real model_type and architecture of transformers, the fields that matter (every kind of layer
that the family has), and its official chat template where a package of the development environment ships it.
The product knows nothing of this table: it reads each base from its own files.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

CHATML = "trl:qwen3_instruct_2507"  # stands in where no package ships the official template


@dataclass(frozen=True)
class Family:
    """One row: `template` is TRL's copy of the official one (None: no package ships it, CHATML stands in).

    "mistral:VERSION" is made by Mistral's own generator (mistral_common). `special` are control tokens, `added` are tokens of their own that decode as text; `bos` begins a text
    where the tokenizer adds one. `covers` are the published models that have this architecture.
    """

    name: str
    covers: str
    model_type: str
    architecture: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] | None = None  # of a wrapper: its language model
    vision: Mapping[str, Any] | None = None
    template: str | None = None
    special: tuple[str, ...] = ("<|im_start|>", "<|endoftext|>")
    added: tuple[str, ...] = ()
    eos: str = "<|im_end|>"
    stops: tuple[str, ...] = ()  # further end tokens of its generation_config.json
    bos: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict)  # method: what prepare says against it
    no_adapter: str | None = None  # why vLLM on a CPU cannot serve its adapter, in vLLM's words
    engine_type: str = "float32"  # that vLLM computes in
    apart: float = 0.001  # how far log-probabilities of engine and transformers may be apart, on average
    unrendered: Mapping[str, str] = field(default_factory=dict)  # conversation: what prepare says against it


VOCABULARY = 320  # 256 bytes, the family's own tokens, and rows that no token has, as published models do
# Head sizes are those that vLLM computes on a CPU; every width differs, so that a transposed one is seen.
SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "initializer_range": 0.1,
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": 32,
    "patch_size": 8,
}
_QWEN_VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
}
_LLAMA31_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
_LINEAR = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
_SHARED_EXPERT = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80,
}
_MLA = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,  # with 64 rotated dimensions, the one size that vLLM computes
    "q_lora_rank": 48,
    "qk_rope_head_dim": 64,
    "head_dim": 64,  # that of the rotated part, as its class has it
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "n_group": 1,
    "topk_group": 1,
}
_HIDDEN_BY_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}  # vLLM reads no head_dim of theirs
_SLIDING = {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}
_LLAMA_TOKENS: dict[str, Any] = {
    "special": (
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|python_tag|>",
        "<|end_of_text|>",
    ),
    "eos": "<|eot_id|>",
    "bos": "<|begin_of_text|>",
}
_QWEN_TOKENS: dict[str, Any] = {
    "special": ("<|im_start|>", "<|endoftext|>"),
    "added": ("<tool_call>", "</tool_call>"),
}
_QWEN3_TOKENS: dict[str, Any] = {
    "special": ("<|im_start|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    "added": ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
}
_GEMMA_TOKENS: dict[str, Any] = {
    "special": ("<start_of_turn>", "<eos>", "<start_of_image>", "<image_soft_token>", "<end_of_image>"),
    "eos": "<end_of_turn>",
    "bos": "<bos>",
}
_MISTRAL_TOKENS: dict[str, Any] = {
    "special": (
        "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]",
        "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[THINK]", "[/THINK]",
    ),
    "eos": "</s>",
    "bos": "<s>",
}  # fmt: skip
_DEEPSEEK_TOKENS: dict[str, Any] = {
    "special": (
        "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>", "<｜tool▁sep｜>",
    ),
    "added": ("<think>", "</think>"),
    "eos": "<｜end▁of▁sentence｜>",
    "bos": "<｜begin▁of▁sentence｜>",
}  # fmt: skip
_PHI_TOKENS: dict[str, Any] = {
    "special": ("<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
    "eos": "<|end|>",
}
_IN_BF16: dict[str, Any] = {"engine_type": "bfloat16", "apart": 0.05}  # all that its linear attention knows
_EXPERTS_IN_BF16 = _IN_BF16 | {"apart": 0.15}  # rounding can choose another expert
_NO_TRITON = "module 'triton.language' has no attribute"  # LoRA beside routed experts needs its kernels
_NO_REASONING = {"reasoning": "does not write an answer's reasoning"}
_NO_TOOLS = {"tools": "does not write a call's name or arguments"}
_ALTERNATE = {"tools": "Conversation roles must alternate"}

FAMILIES: tuple[Family, ...] = (
    Family(
        "llama-3.1", "Llama 3.1, 3.3", "llama", "LlamaForCausalLM", {"rope_parameters": _LLAMA31_ROPE},
        unrendered=_NO_REASONING, template="trl:llama3_1", **_LLAMA_TOKENS,
    ),
    Family(
        "llama-3.2", "Llama 3.2 1B, 3B", "llama", "LlamaForCausalLM",
        {"rope_parameters": _LLAMA31_ROPE, "tie_word_embeddings": True},
        unrendered=_NO_REASONING, template="trl:llama3_2", **_LLAMA_TOKENS,
    ),
    Family("qwen-2.5", "Qwen 2.5", "qwen2", "Qwen2ForCausalLM", _HIDDEN_BY_HEADS, unrendered=_NO_REASONING, template="trl:qwen2_5", **_QWEN_TOKENS),
    Family(
        "qwen3", "Qwen3 0.6B to 32B (hybrid)", "qwen3", "Qwen3ForCausalLM", {"tie_word_embeddings": True},
        template="trl:qwen3", **_QWEN3_TOKENS,
    ),
    Family(
        "qwen3-2507", "Qwen3 4B Instruct 2507", "qwen3", "Qwen3ForCausalLM",
        unrendered=_NO_REASONING, template="trl:qwen3_instruct_2507", **_QWEN3_TOKENS,
    ),
    Family(
        "qwen3-moe", "Qwen3 30B A3B, 235B A22B", "qwen3_moe", "Qwen3MoeForCausalLM",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
        template="trl:qwen3", **_QWEN3_TOKENS,
        no_adapter=_NO_TRITON,
    ),
    Family(
        "qwen3-next", "Qwen3 Next 80B A3B", "qwen3_next", "Qwen3NextForCausalLM", {**_LINEAR, **_SHARED_EXPERT},
        no_adapter=_NO_TRITON, **_EXPERTS_IN_BF16,
    ),
    Family(
        "qwen3.5", "Qwen3.5 0.8B to 27B", "qwen3_5", "Qwen3_5ForConditionalGeneration",
        text=_LINEAR, vision=_QWEN_VISION, template="trl:qwen3_5_think", **_QWEN3_TOKENS, **_IN_BF16,
    ),
    Family(
        "qwen3.5-moe", "Qwen3.5 and 3.6 35B A3B", "qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration",
        text={**_LINEAR, **_SHARED_EXPERT}, vision=_QWEN_VISION, template="trl:qwen3_6", **_QWEN3_TOKENS,
        no_adapter=_NO_TRITON, **_EXPERTS_IN_BF16,
    ),
    Family(
        "mistral-7b", "Mistral 7B v0.3", "mistral", "MistralForCausalLM", {"sliding_window": None},
        unrendered=_NO_REASONING, template="mistral:v3", **_MISTRAL_TOKENS,
    ),
    Family(
        "mistral-small-2501", "Mistral Small 3 (2501)", "mistral", "MistralForCausalLM",
        {"sliding_window": None}, unrendered=_NO_REASONING, template="mistral:v7", **_MISTRAL_TOKENS,
    ),
    Family(
        "mistral-small-3.1", "Mistral Small 3.1 and 3.2", "mistral3", "Mistral3ForConditionalGeneration",
        {"tie_word_embeddings": False}, text={"model_type": "mistral", "sliding_window": None},
        vision={"model_type": "pixtral", **_VISION}, unrendered=_NO_REASONING, template="mistral:v7-image", **_MISTRAL_TOKENS,
    ),
    Family(
        "ministral-3", "Ministral 3 3B to 14B", "mistral3", "Mistral3ForConditionalGeneration",
        {"tie_word_embeddings": False}, text={"model_type": "ministral3"},
        vision={"model_type": "pixtral", **_VISION}, unrendered=_NO_REASONING, template="mistral:v13-image", **_MISTRAL_TOKENS,
    ),
    Family(
        "mixtral", "Mixtral 8x7B, 8x22B", "mixtral", "MixtralForCausalLM",
        {"num_local_experts": 4, "num_experts_per_tok": 2}, unrendered={**_NO_REASONING, "tools": "content must be non-empty"}, template="mistral:v1", **_MISTRAL_TOKENS,
        no_adapter=_NO_TRITON,
    ),
    Family(
        "phi-3.5", "Phi 3.5 mini", "phi3", "Phi3ForCausalLM", {"sliding_window": 32, "pad_token_id": None},
        unrendered=_NO_REASONING | _NO_TOOLS, template="trl:phi3_5", **_PHI_TOKENS,
    ),
    Family("phi-4", "Phi 4", "phi3", "Phi3ForCausalLM", {"pad_token_id": None}),
    Family(
        "phi-4-mini", "Phi 4 mini", "phi3", "Phi3ForCausalLM",
        {"pad_token_id": None, "tie_word_embeddings": True, "partial_rotary_factor": 0.75, "head_dim": 64},
    ),
    Family(
        "gemma-2", "Gemma 2", "gemma2", "Gemma2ForCausalLM", {**_SLIDING, "query_pre_attn_scalar": 32},
        unrendered={**_NO_REASONING, **_ALTERNATE, "system": "System role not supported"}, template="trl:gemma", **_GEMMA_TOKENS,
    ),
    Family(
        "gemma-3-text", "Gemma 3 270M, 1B", "gemma3_text", "Gemma3ForCausalLM",
        {**_SLIDING, "query_pre_attn_scalar": 32}, unrendered=_NO_REASONING | _ALTERNATE, template="trl:gemma3", **_GEMMA_TOKENS,
    ),
    Family(
        "gemma-3", "Gemma 3 4B to 27B", "gemma3", "Gemma3ForConditionalGeneration",
        {"mm_tokens_per_image": 4, "tie_word_embeddings": True},
        text={**_SLIDING, "query_pre_attn_scalar": 32}, vision=_VISION,
        unrendered=_NO_REASONING | _ALTERNATE, template="trl:gemma3", **_GEMMA_TOKENS,
    ),
    Family(
        "gemma-3n", "Gemma 3n (its text model)", "gemma3n_text", "Gemma3nForCausalLM",
        {
            **_SLIDING, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCABULARY, "laurel_rank": 8,
            "activation_sparsity_pattern": [0.95, 0.0],
        },
        refused=dict.fromkeys(("LoRA", "Full"), "computes a Gemma3nForCausalLM without the embeddings of its layers"),
    ),
    Family(
        "gemma-4", "Gemma 4 E2B, E4B, 31B", "gemma4", "Gemma4ForConditionalGeneration",
        {"audio_config": None, "tie_word_embeddings": True},
        text={**_SLIDING, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCABULARY, "global_head_dim": 64},
        vision={**_VISION, "num_key_value_heads": 2, "position_embedding_size": 64},
        template="trl:gemma4_v5",
        special=(
            "<|turn>", "<eos>", "<|image|>", "<|audio|>", "<|video|>", "<|think|>", "<|tool>", "<tool|>",
            "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|channel>", "<channel|>",
        ),
        eos="<turn|>", stops=("<eos>", "<|tool_response>"), bos="<bos>",
    ),
    Family("smollm2", "SmolLM2", "llama", "LlamaForCausalLM", {"tie_word_embeddings": True}),
    Family(
        "smollm3", "SmolLM3 3B", "smollm3", "SmolLM3ForCausalLM",
        {"tie_word_embeddings": True, "no_rope_layers": [1, 0], "pad_token_id": None},
    ),
    Family(
        "granite", "Granite 3.x", "granite", "GraniteForCausalLM",
        {"logits_scaling": 8.0, "residual_multiplier": 0.22, "embedding_multiplier": 12.0, "attention_multiplier": 0.1},
    ),
    Family("olmo-2", "OLMo 2", "olmo2", "Olmo2ForCausalLM"),
    Family(
        "gpt-oss", "gpt-oss 20B, 120B (bf16)", "gpt_oss", "GptOssForCausalLM",
        {**_SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
        template="trl:gptoss",
        special=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|constrain|>"),
        eos="<|return|>", stops=("<|call|>",),
        no_adapter=_NO_TRITON,
    ),
    Family(
        "r1-distill-qwen", "DeepSeek R1 Distill Qwen", "qwen2", "Qwen2ForCausalLM", _HIDDEN_BY_HEADS,
        unrendered=_NO_TOOLS, template="trl:deepseek_r1_distill", **_DEEPSEEK_TOKENS,
    ),
    Family(
        "r1-distill-llama", "DeepSeek R1 Distill Llama", "llama", "LlamaForCausalLM",
        {"rope_parameters": _LLAMA31_ROPE}, unrendered=_NO_TOOLS, template="trl:deepseek_r1_distill", **_DEEPSEEK_TOKENS,
    ),
    Family("deepseek-v2", "DeepSeek V2, V2 Lite", "deepseek_v2", "DeepseekV2ForCausalLM", _MLA, no_adapter=_NO_TRITON),
    Family(
        "deepseek-v3", "DeepSeek V3, R1 (bf16)", "deepseek_v3", "DeepseekV3ForCausalLM",
        {**_MLA, "num_nextn_predict_layers": 0, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}, template="trl:deepseekv3", **_DEEPSEEK_TOKENS,
        no_adapter=_NO_TRITON,
    ),
    Family("glm-4", "GLM 4 0414", "glm4", "Glm4ForCausalLM", {"attention_bias": True, "pad_token_id": None}),
    Family(
        "glm-4.5", "GLM 4.5, 4.6", "glm4_moe", "Glm4MoeForCausalLM",
        {
            "num_hidden_layers": 3, "first_k_dense_replace": 1, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "moe_intermediate_size": 48, "use_qk_norm": True,
            "num_nextn_predict_layers": 0, "attention_bias": True,
        },
        template="trl:glm4moe",
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]", "<sop>"),
        added=("<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        eos="<|endoftext|>", stops=("<|user|>", "<|observation|>"),
        no_adapter=_NO_TRITON,
    ),
    Family(
        "llama-4", "Llama 4 Scout, Maverick", "llama4", "Llama4ForConditionalGeneration",
        text={
            "num_hidden_layers": 4, "interleave_moe_layer_step": 2, "num_local_experts": 4,
            "intermediate_size_mlp": 80, "no_rope_layers": [1, 1, 1, 0], "attention_chunk_size": 128,
        },
        vision={**_VISION, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
        no_adapter=_NO_TRITON,
    ),
    Family(
        "lfm2", "LFM2 350M to 2.6B", "lfm2", "Lfm2ForCausalLM",
        {
            "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False, "conv_dim": 64, "block_dim": 64, "block_ff_dim": 96,
            "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
        },
        unrendered=_NO_REASONING, template="trl:lfm2_v2",
        special=(
            "<|im_start|>", "<|endoftext|>", "<|tool_call_start|>", "<|tool_call_end|>", "<|tool_list_start|>",
            "<|tool_list_end|>", "<|tool_response_start|>", "<|tool_response_end|>",
        ),
        bos="<|startoftext|>",
    ),
)  # fmt: skip
_A_DAY = 2


def with_engine() -> tuple[Family, ...]:
    """Families to try with an engine: those that FINETUNE_FAMILIES names (or "all"), else two a day in turn."""
    if named := os.environ.get("FINETUNE_FAMILIES"):
        return tuple(family for family in FAMILIES if named == "all" or family.name in named.split(","))
    first = datetime.now(UTC).toordinal() * _A_DAY
    return tuple(FAMILIES[(first + place) % len(FAMILIES)] for place in range(_A_DAY))
