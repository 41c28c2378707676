"""Shapes read from config.json against the modules of transformers, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.errors import UserError
from finetune_trainer.planning.shape import adapter_parameters, read_config, shape_of
from tests.unit.trainer_planning import shapes

PUBLISHED = {
    "Llama-3.1-8B": (shapes.LLAMA_8B, 8_030_261_248),
    "Llama-3.2-1B": (shapes.LLAMA_1B, 1_235_814_400),
    "Llama-3.3-70B": (shapes.LLAMA_70B, 70_553_706_496),
    "Llama-2-7B": (shapes.LLAMA2_7B, 6_738_415_616),
    "Llama-2-13B": (shapes.LLAMA2_13B, 13_015_864_320),
    "Mistral-7B-v0.3": (shapes.MISTRAL_7B, 7_248_023_552),
    "Qwen2.5-1.5B": (shapes.QWEN25_1B, 1_543_714_304),
    "Qwen2.5-7B": (shapes.QWEN25_7B, 7_615_616_512),
    "Qwen3-8B": (shapes.QWEN3_8B, 8_190_735_360),
    "Phi-4": (shapes.PHI4, 14_659_507_200),
    "Gemma-2-9B": (shapes.GEMMA2_9B, 9_241_705_984),
    "SmolLM2-135M": (shapes.SMOLLM2_135M, 134_515_008),
    "Mixtral-8x7B": (shapes.MIXTRAL_8X7B, 46_702_792_704),
    "Qwen3-30B-A3B": (shapes.QWEN3_30B, 30_532_122_624),
    "Gemma-3-4B (its text part)": (shapes.GEMMA3_4B, 3_880_263_168),
}


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_parameter_counts(config: dict[str, Any], parameters: int) -> None:
    assert shape_of(config).parameters == parameters


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 48}
VARIANTS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", {}),
    ("qwen2", {"head_dim": 16}),
    ("qwen3", {"attention_bias": True}),
    ("phi3", {"head_dim": 16, "tie_word_embeddings": False}),
    ("gemma", {}),
    ("gemma2", {}),
    ("gemma3_text", {}),
    ("smollm3", {"mlp_bias": True, "head_dim": 16}),
    ("granite", {"attention_bias": True}),
    ("mixtral", EXPERTS),
    ("qwen3_moe", EXPERTS),
]


@pytest.mark.parametrize(("model_type", "more"), VARIANTS, ids=[f"{name} {more}" for name, more in VARIANTS])
def test_counts_are_those_of_the_modules(model_type: str, more: dict[str, Any]) -> None:
    settings = {**SMALL, **more}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    shape = shape_of({"model_type": model_type, **settings})
    linears = [
        (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    assert shape.parameters == sum(weights.numel() for weights in model.parameters())
    assert shape.linear_parameters == sum(inputs * outputs for inputs, outputs in linears)
    assert adapter_parameters(shape, 4) == 4 * sum(inputs + outputs for inputs, outputs in linears)
    assert shape.largest_linear == max(inputs * outputs for inputs, outputs in linears)


def test_llama_8b_has_the_numbers_of_the_literature() -> None:
    shape = shape_of(shapes.LLAMA_8B)
    assert adapter_parameters(shape, 16) == 41_943_040
    assert shape.product_parameters == pytest.approx(7.505e9, rel=0.001)
    assert shape.largest_layer == 128256 * 4096


def test_a_mixture_of_experts_computes_with_few_of_its_weights() -> None:
    """Published: 12.9B of 46.7B and 3.3B of 30.5B, the token embedding among them."""
    for config, active in ((shapes.MIXTRAL_8X7B, 12.9e9), (shapes.QWEN3_30B, 3.3e9)):
        shape = shape_of(config)
        assert shape.product_parameters + shape.embedding == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, "model_type is t5; the memory plan knows gemma,"),
        ({}, "model_type is None"),
        ({**shapes.LLAMA_8B, "hidden_size": None}, r"\(llama\) lacks hidden_size"),
        ({**shapes.LLAMA_8B, "vocab_size": "many"}, "vocab_size: many; it must be a whole number above 0"),
        ({**shapes.LLAMA_8B, "num_hidden_layers": 0}, "num_hidden_layers: 0"),
        ({**shapes.LLAMA_8B, "num_hidden_layers": True}, "num_hidden_layers: True"),
        ({**shapes.MIXTRAL_8X7B, "num_local_experts": None}, "lacks num_local_experts"),
        ({**shapes.QWEN3_30B, "mlp_only_layers": [0]}, "only models that have one kind"),
    ],
)
def test_a_shape_that_cannot_be_known_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shape_of(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
    ids=["cut", "a list", "not UTF-8", "nested deeply"],
)
def test_a_broken_config_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)


def test_a_config_is_read_from_its_folder_or_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shapes.LLAMA_8B))
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == shapes.LLAMA_8B
    with pytest.raises(UserError, match=r"holds no config\.json that can be read"):
        read_config(tmp_path / "absent")
