"""Shapes counted in the weights against the modules of transformers, and what a config.json alone tells."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert

from finetune_trainer.base.config import BaseConfig, parse_base_config
from finetune_trainer.base.headers import Headers, Tensor
from finetune_trainer.base.shape import (
    BaseModel,
    adapter_parameters,
    read_base,
    read_shape,
    shape_of,
    usual_headers,
)
from finetune_trainer.errors import UserError
from tests.unit.trainer_base import shapes

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
}


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_a_config_alone_tells_the_published_count_but_for_biases_and_further_norms(
    config: dict[str, Any], parameters: int
) -> None:
    assert shapes.shape_by_config(config).parameters == pytest.approx(parameters, rel=1e-4)


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 48}
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "n_routed_experts": 8, "n_group": 2, "topk_group": 2}
WITHOUT_WIDTH = {"intermediate_size": None}  # left out: the class has another field or none
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", {"head_dim": 32}),
    ("ministral3", {}),
    ("qwen2", {}),
    ("qwen3", {"attention_bias": True}),
    ("phi3", {}),
    ("gemma2", {"tie_word_embeddings": True}),
    ("gemma3_text", {"tie_word_embeddings": True}),
    ("smollm3", {"mlp_bias": True}),
    ("granite", {}),
    ("olmo2", {}),
    ("glm4", {}),
    ("cohere2", {"tie_word_embeddings": True}),
    ("mixtral", EXPERTS),
    ("qwen3_moe", EXPERTS),
    ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [0]}),
    ("qwen3_next", {**EXPERTS, "shared_expert_intermediate_size": 48}),
    ("gpt_oss", EXPERTS),
    ("glm4_moe", {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    ("deepseek_v3", {**LATENT, "first_k_dense_replace": 1, "num_key_value_heads": 4}),
    ("lfm2", {}),
    ("opt", {**WITHOUT_WIDTH, "ffn_dim": 160, "tie_word_embeddings": True}),
    ("opt", {**WITHOUT_WIDTH, "ffn_dim": 160, "word_embed_proj_dim": 32, "tie_word_embeddings": True}),
    ("gpt_neo", {**WITHOUT_WIDTH, "num_layers": 4, "attention_types": [[["global", "local"], 2]]}),
    ("gpt_bigcode", WITHOUT_WIDTH),
    ("gptj", {**WITHOUT_WIDTH, "rotary_dim": 8}),
    ("bloom", WITHOUT_WIDTH),
]
# By class: what vLLM serves no adapter on, since it multiplies it into other weights or takes it apart.
UNSERVED = {"deepseek_v3": "kv_b_proj", "glm4": "gate_up_proj"}


@pytest.mark.parametrize(("model_type", "more"), VARIANTS, ids=[f"{name} {more}" for name, more in VARIANTS])
def test_counts_are_those_of_the_modules(model_type: str, more: dict[str, Any]) -> None:
    model = _model(model_type, more)
    base, headers = _base(model.config), _headers(model)
    shape = shape_of(base, headers)
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.search(r"\.\d+\.", name)
    }
    products = sum(inputs * outputs for inputs, outputs in linears.values())
    experts = sum(weights.parameters for name, weights in headers.items() if "experts" in name.split("."))
    adapted = [
        sizes
        for name, sizes in linears.items()
        if sizes[1] > 1 and not name.endswith(UNSERVED.get(model_type, "-"))
    ]
    assert shape.beside == 0
    assert shape.parameters == sum(weights.numel() for weights in model.parameters())
    assert shape.linear_parameters == products
    assert adapter_parameters(shape, 4) == 4 * sum(inputs + outputs for inputs, outputs in adapted)
    assert shape.largest_linear == max(inputs * outputs for inputs, outputs in linears.values())
    assert (shape.experts is not None) == (base.experts is not None)
    active = experts * (base.active_experts or 0) // (base.experts or 1)
    assert shape.product_parameters == products + active + (shape.head or shape.embedding)


@pytest.mark.parametrize(
    "model_type", sorted({name for name, more in VARIANTS if WITHOUT_WIDTH.items() <= more.items()})
)
def test_the_width_of_the_feed_forward_part_is_that_of_the_weights(model_type: str) -> None:
    more = next(more for name, more in VARIANTS if name == model_type)
    model = _model(model_type, more)
    assert shape_of(_base(model.config), _headers(model)).feed_forward == more.get("ffn_dim", 4 * 64)


def _model(model_type: str, more: dict[str, Any]) -> torch.nn.Module:
    """A small model without data, whose config says what a published one does."""
    fields = {key: value for key, value in {**SMALL, **more}.items() if value is not None}
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))
    model.config.architectures = [type(model).__name__]
    return model


@pytest.mark.parametrize(("model_type", "more"), VARIANTS, ids=[f"{name} {more}" for name, more in VARIANTS])
def test_what_qlora_quantises_is_what_bitsandbytes_replaces(model_type: str, more: dict[str, Any]) -> None:
    model = _model(model_type, more)
    shape = shape_of(_base(model.config), _headers(model))
    outside = more.get("word_embed_proj_dim", 0) * 2 * SMALL["hidden_size"]  # not told from embeddings
    assert shape.quantised == _replaced(model) - outside


def test_the_parts_beside_a_language_model_are_quantised_too() -> None:
    config = AutoConfig.for_model("gemma3")
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 2
    config.vision_config.vision_use_head = False  # as in the published ones
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    shape = shape_of(_base(config), _headers(model))
    assert shape.linear_parameters < shape.quantised == _replaced(model)


def _replaced(model: torch.nn.Module) -> int:
    """The weights that bitsandbytes quantises of a model that transformers loads."""
    kept = get_keys_to_not_convert(model)
    replace_with_bnb_linear(model, kept, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    layers = (module for module in model.modules() if isinstance(module, Linear4bit))
    return sum(layer.in_features * layer.out_features for layer in layers)


def test_a_multimodal_model_is_its_language_model_and_what_is_loaded_beside() -> None:
    config = AutoConfig.for_model("gemma3")
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 2
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        text = AutoModelForCausalLM.from_config(config.text_config)
    shape = shape_of(_base(config), _headers(model))
    assert shape.parameters == sum(weights.numel() for weights in model.parameters())
    assert shape.language_parameters == sum(weights.numel() for weights in text.parameters())
    assert shape.beside > 0
    assert adapter_parameters(shape, 16) == adapter_parameters(
        shape_of(_base(config.text_config), _headers(text)), 16
    )


def test_layers_that_are_stored_the_other_way_round_take_no_adapter() -> None:
    config = AutoConfig.for_model("gpt2", **SMALL)
    with torch.device("meta"):
        base = BaseModel(_base(config), _headers(AutoModelForCausalLM.from_config(config)))
    assert base.shape().embedding == 512 * 64
    with pytest.raises(
        UserError, match=r"transformer.h.0.attn.c_attn as \(inputs, outputs\), .* use method Full"
    ):
        base.adapted(None)


def test_a_base_on_which_no_adapter_can_sit_is_planned_for_full() -> None:
    base = parse_base_config({**shapes.TINY, "architectures": ["Glm4ForCausalLM"]})
    kept = {n: t for n, t in usual_headers(base).items() if "_proj" not in n}
    joined = {f"model.layers.{i}.mlp.gate_up_proj.weight": Tensor("BF16", (160, 32)) for i in range(3)}
    model = BaseModel(base, {**kept, **joined})
    assert model.shape().linear_parameters == 3 * 160 * 32
    with pytest.raises(UserError, match="no linear layer that an adapter can sit on; use method Full"):
        model.adapted(None)


def test_experts_that_are_stored_without_being_named_so_are_told_by_their_shape() -> None:
    """The Hub's GraniteMoe: transformers renames them on loading."""
    base = parse_base_config({**shapes.MIXTRAL_8X7B, "model_type": "granitemoe"})
    stored = {
        name.replace("mlp.experts.gate_up_proj", "block_sparse_moe.input_linear.weight").replace(
            "mlp.experts.down_proj", "block_sparse_moe.output_linear.weight"
        ): tensor
        for name, tensor in usual_headers(base).items()
    }
    assert shape_of(base, stored) == shape_of(base, usual_headers(base))


@pytest.mark.parametrize(
    ("model_type", "joined"),
    [("glm4", {"gate_up_proj"}), ("phi3", {"gate_up_proj", "qkv_proj"}), ("llama", set())],
)
def test_layers_that_a_class_joins_are_joined_in_what_a_config_alone_tells(
    model_type: str, joined: set[str]
) -> None:
    model = _model(model_type, {})
    alone = shapes.shape_by_config(json.loads(model.config.to_json_string()))
    stored = shape_of(_base(model.config), _headers(model))
    assert (alone.linears, alone.targets) == (stored.linears, stored.targets)
    assert {linear.name for linear in alone.linears} & {"gate_up_proj", "qkv_proj"} == joined


def test_what_is_stored_and_not_loaded_does_not_count() -> None:
    base = parse_base_config({**shapes.TINY, "num_nextn_predict_layers": 1})
    headers = dict(usual_headers(base))
    more = {
        "lm_head.weight": (100, 32),  # the copy of a tied head
        "model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
        "mtp.layers.0.mlp.down_proj.weight": (32, 80),
        "model.layers.3.mlp.down_proj.weight": (32, 80),
    }
    stored = {**headers, **{name: Tensor("BF16", size) for name, size in more.items()}}
    assert shape_of(base, stored) == shape_of(base, headers)


def test_chosen_layers_make_a_smaller_adapter() -> None:
    shape = shapes.shape_by_config(shapes.LLAMA_8B)
    assert adapter_parameters(shape, 16) == 41_943_040
    assert adapter_parameters(shape, 16, ["q_proj", "v_proj"]) == 16 * 32 * (2 * 4096 + 4096 + 1024)


def test_llama_8b_has_the_numbers_of_the_literature() -> None:
    shape = shapes.shape_by_config(shapes.LLAMA_8B)
    assert shape.product_parameters == pytest.approx(7.505e9, rel=0.001)
    assert shape.largest_gathered == 128256 * 4096
    assert (shape.feed_forward, shape.head_dim, shape.kv_heads) == (14336, 128, 8)


def test_a_mixture_of_experts_computes_with_few_of_its_weights() -> None:
    """Published: 12.9B of 46.7B and 3.3B of 30.5B, the token embedding among them."""
    for config, active in ((shapes.MIXTRAL_8X7B, 12.9e9), (shapes.QWEN3_30B, 3.3e9)):
        shape = shapes.shape_by_config(config)
        assert shape.product_parameters + shape.embedding == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"vocab_size": 101},
            r"vocab_size is 101 in the one and 100 rows of model\.embed_tokens in the other",
        ),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2 in the one and 3 in the other"),
        ({"num_hidden_layers": 4}, "num_hidden_layers is 4 in the one and 3 in the other"),
        ({"hidden_size": 64}, r"no embedding of width 64 \(hidden_size\)"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is false in the one and no output head"),
    ],
    ids=["vocabulary", "fewer layers", "more layers", "width", "output head"],
)
def test_weights_of_another_model_are_refused(fields: dict[str, Any], message: str) -> None:
    headers = usual_headers(parse_base_config(shapes.TINY))
    with pytest.raises(UserError, match=message):
        shape_of(parse_base_config({**shapes.TINY, **fields}), headers)


def test_weights_of_another_model_are_refused_where_no_memory_is_planned(tmp_path: Path) -> None:
    """A job on CPUs asks for no shape, and a check neither."""
    headers = usual_headers(parse_base_config(shapes.TINY))
    save_file({name: np.zeros(t.shape, "f2") for name, t in headers.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**shapes.TINY, "vocab_size": 99}))
    with pytest.raises(UserError, match="vocab_size is 99"):
        read_base(tmp_path)


def test_quantised_weights_are_refused() -> None:
    base = parse_base_config(shapes.TINY)
    headers = {**usual_headers(base), "model.layers.0.mlp.up_proj.qweight": Tensor("I32", (2, 2))}
    with pytest.raises(UserError, match=r"quantised \(I32\); name the model in 16 bits"):
        shape_of(base, headers)
    quantised = parse_base_config({**shapes.TINY, "quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(UserError, match=r"quantised \(fp8\)"):
        shape_of(quantised, usual_headers(base))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "never_heard_of"}, "lacks vocab_size"),
        ({"model_type": "deepseek_v3"}, r"it has kv_lora_rank, q_lora_rank\); give the folder"),
        ({"model_type": "qwen3_next"}, "it has linear_conv_kernel_dim"),
        ({"model_type": "gemma3n_text"}, "hidden_size_per_layer_input"),
        (shapes.GEMMA3_4B, "it has other inputs than text"),
        ({**shapes.MIXTRAL_8X7B, "num_experts_per_tok": "two"}, "says num_experts_per_tok: two"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value["model_type"],
)
def test_sizes_that_a_config_alone_does_not_tell(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shapes.shape_by_config(config)


UNTRAINABLE: list[tuple[str, dict[str, Any], str, str]] = [
    ("pickled weights alone", shapes.TINY, "pytorch_model.bin", "weights are pickle files .*; save them as"),
    (
        "code of the repository's own",
        {"model_type": "new", "auto_map": {"AutoModelForCausalLM": "modeling.New"}},
        "tokenizer.json",
        r"\(new\) cannot be loaded for text: .* code from its repository \(auto_map\) is not run",
    ),
    (
        "weights in 4 bits",
        {**shapes.TINY, "quantization_config": {"quant_method": "mxfp4"}},
        "tokenizer.json",
        r"quantised \(mxfp4\)",
    ),
    (
        "a class that the engine computes otherwise",
        {**shapes.TINY, "model_type": "gemma3n_text", "architectures": ["Gemma3nForCausalLM"]},
        "tokenizer.json",
        "vLLM 0.32 computes a Gemma3nForCausalLM without the embeddings of its layers, so it would serve another",
    ),
]


@pytest.mark.parametrize(
    ("config", "file", "message"), [row[1:] for row in UNTRAINABLE], ids=[row[0] for row in UNTRAINABLE]
)
def test_a_base_that_cannot_be_trained_is_refused(
    config: dict[str, Any], file: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / file).touch()
    with pytest.raises(UserError, match=message):
        read_base(tmp_path)


def test_what_training_changes_is_counted_by_names_alone() -> None:
    base = parse_base_config(shapes.LLAMA_8B)
    model = BaseModel(base, usual_headers(base))
    assert model.trained(16, None) == adapter_parameters(model.shape(), 16) == 41_943_040
    assert model.trained(None, None) == model.shape().parameters
    assert model.adapted(["v_proj"]) == ("v_proj",)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            "GPT2LMHeadModel",
            r"spec.method: vLLM .* serves no adapter on its own GPT2LMHeadModel class; use method Full",
        ),
        ("LlamaForCausalLM", None),
        ("OfNextYearForCausalLM", None),
    ],
    ids=[
        "one that vLLM serves without adapters is refused",
        "one that takes adapters is not",
        "one that vLLM does not know is not",
    ],
)
def test_an_adapter_needs_a_base_whose_adapters_are_served(architecture: str, message: str | None) -> None:
    base = parse_base_config({**shapes.LLAMA_8B, "architectures": [architecture]})
    served = BaseModel(base, usual_headers(base))
    if message is None:
        assert served.adapted(None)
        return
    with pytest.raises(UserError, match=message):
        served.adapted(None)
    assert served.shape().linears  # Full is planned


def test_a_config_is_planned_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shapes.LLAMA_1B))
    assert (
        read_shape(tmp_path / "config.json")
        == read_shape(tmp_path)
        == shapes.shape_by_config(shapes.LLAMA_1B)
    )


def _base(config: Any) -> BaseConfig:
    return parse_base_config(json.loads(config.to_json_string()))


def _headers(model: torch.nn.Module) -> Headers:
    return {name: Tensor("BF16", tuple(weight.shape)) for name, weight in model.named_parameters()}
