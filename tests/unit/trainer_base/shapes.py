"""config.json of well-known models, as their makers published them (fields that matter to the plan)."""

from typing import Any

from finetune_trainer.base.config import parse_base_config
from finetune_trainer.base.shape import ModelShape, shape_of, usual_headers


def _config(model_type: str, *sizes: int, **more: Any) -> dict[str, Any]:
    hidden, intermediate, layers, heads, kv_heads, vocab = sizes
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 32768,
        **more,
    }


LLAMA_8B = _config("llama", 4096, 14336, 32, 32, 8, 128256)
LLAMA_1B = _config("llama", 2048, 8192, 16, 32, 8, 128256, head_dim=64, tie_word_embeddings=True)
LLAMA_70B = _config("llama", 8192, 28672, 80, 64, 8, 128256)
LLAMA2_7B = _config("llama", 4096, 11008, 32, 32, 32, 32000)
LLAMA2_13B = _config("llama", 5120, 13824, 40, 40, 40, 32000)
MISTRAL_7B = _config("mistral", 4096, 14336, 32, 32, 8, 32768, head_dim=None)
QWEN25_1B = _config("qwen2", 1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True)
QWEN25_7B = _config("qwen2", 3584, 18944, 28, 28, 4, 152064, tie_word_embeddings=False)
QWEN3_8B = _config("qwen3", 4096, 12288, 36, 32, 8, 151936, head_dim=128, tie_word_embeddings=False)
PHI4 = _config("phi3", 5120, 17920, 40, 40, 10, 100352, tie_word_embeddings=False)
GEMMA2_9B = _config("gemma2", 3584, 14336, 42, 16, 8, 256000, head_dim=256)
SMOLLM2_135M = _config("llama", 576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True)
MIXTRAL_8X7B = _config("mixtral", 4096, 14336, 32, 32, 8, 32000, num_local_experts=8, num_experts_per_tok=2)
QWEN3_30B = _config(
    "qwen3_moe",
    *(2048, 6144, 48, 32, 4, 151936),
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
)
# What Google published for the 4B model: the rest are the defaults of the class.
GEMMA3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
    },
}


def shape_by_config(config: dict[str, Any]) -> ModelShape:
    """The shape of the model whose weights a config.json describes."""
    base = parse_base_config(config)
    return shape_of(base, usual_headers(base))


TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
