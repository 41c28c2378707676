"""Which modules an adapter sits on: the same by the names of a loaded model and by those of its files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from finetune_trainer.base.config import BaseConfig, parse_base_config, read_base_config
from finetune_trainer.base.headers import read_headers
from finetune_trainer.base.targets import Shape, adapter_targets, find_decoder
from finetune_trainer.errors import UserError

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32}
ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
FEED_FORWARD = ("down_proj", "gate_proj", "up_proj")

FAMILIES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("llama", {}, (*ATTENTION, *FEED_FORWARD)),
    ("phi3", {}, ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")),
    ("olmo2", {}, (*ATTENTION, *FEED_FORWARD)),
    ("mixtral", EXPERTS, ATTENTION),
    ("qwen3_moe", EXPERTS, ATTENTION),
    ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 32}, (*ATTENTION, *FEED_FORWARD)),
    ("gpt_oss", EXPERTS, ATTENTION),
    ("opt", {"ffn_dim": 96}, ("fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj")),
    (
        "opt",
        {"ffn_dim": 96, "word_embed_proj_dim": 32},
        ("fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"),
    ),
    ("gpt_bigcode", {}, ("c_attn", "c_fc", "c_proj")),
]


@pytest.mark.parametrize(("family", "more", "names"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_files_and_loaded_model_give_the_same_modules(
    family: str, more: dict[str, Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **TINY, **more))
    model.save_pretrained(tmp_path)
    base, stored = read_base_config(tmp_path), _stored(tmp_path)
    by_files, loaded = adapter_targets(stored, base), adapter_targets(_loaded(model), base)
    assert by_files.names == loaded.names == tuple(sorted(names))
    assert sorted(by_files.modules) == sorted(loaded.modules)
    assert len(loaded.modules) % TINY["num_hidden_layers"] == 0  # type: ignore[operator]


def test_the_adapter_of_a_multimodal_model_is_on_its_language_model_alone() -> None:
    config = AutoConfig.for_model("gemma3")
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 2
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    base, modules = parse_base_config(json.loads(config.to_json_string())), _loaded(model)
    assert any("vision_tower" in name for name in modules)
    assert find_decoder(modules, base).stack == "model.language_model.layers"
    found = adapter_targets(modules, base).modules
    assert len(found) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in found)


def _llama(**more: Any) -> tuple[BaseConfig, dict[str, Shape]]:
    modules: dict[str, Shape] = {"lm_head": (128, 64), "model.embed_tokens": (128, 64)}
    for layer in range(2):
        modules |= {f"model.layers.{layer}.self_attn.{name}": (64, 64) for name in ("q_proj", "o_proj")}
        modules[f"model.layers.{layer}.mlp.down_proj"] = (64, 96)
    return parse_base_config({"model_type": "llama", **TINY, **more}), modules


def test_a_model_without_such_layers_is_refused() -> None:
    base, modules = _llama()
    bare = {name: shape for name, shape in modules.items() if "layers" not in name}
    bare |= {f"model.layers.{layer}.norm": (64,) for layer in range(2)}
    with pytest.raises(UserError, match="no linear layer that an adapter can sit on; use method Full"):
        adapter_targets(bare, base, ["q_proj"])


def test_layers_that_predict_further_tokens_have_none() -> None:
    base, modules = _llama()
    further = {"model.layers.2.mlp.down_proj": (64, 96), "model.layers.2.eh_proj": (64, 128)}
    assert adapter_targets(modules | further, base) == adapter_targets(modules, base)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp.gate", (4, 64)),
        ("mlp.router", (4, 64)),
        ("mlp.shared_expert_gate", (1, 64)),
        ("mlp.experts.3.down_proj", (64, 32)),
        ("linear_attn.conv1d", (64, 1, 4)),
        ("input_layernorm", (64,)),
    ],
)
def test_what_is_no_target(name: str, shape: Shape) -> None:
    base, modules = _llama(num_local_experts=4)
    assert adapter_targets({**modules, f"model.layers.0.{name}": shape}, base) == adapter_targets(
        modules, base
    )


def test_what_an_engine_multiplies_into_other_weights_of_latent_attention_is_no_target() -> None:
    base, modules = _llama(kv_lora_rank=16)
    absorbed: dict[str, Shape] = {"model.layers.0.self_attn.kv_b_proj": (128, 16)}
    assert adapter_targets(modules | absorbed, base) == adapter_targets(modules, base)


def test_what_the_engine_takes_apart_on_loading_is_no_target() -> None:
    joined: dict[str, Shape] = {"model.layers.0.mlp.gate_up_proj": (192, 64)}
    for architecture, adapted in (("Glm4ForCausalLM", False), ("Phi3ForCausalLM", True), ("Unknown", True)):
        base, modules = _llama(architectures=[architecture])
        names = adapter_targets(modules | joined, base).names
        assert ("gate_up_proj" in names) is adapted, architecture


def test_a_gate_of_a_feed_forward_part_is_no_router() -> None:
    base, modules = _llama()
    assert "gate" in adapter_targets({**modules, "model.layers.0.mlp.gate": (96, 64)}, base).names


def test_a_choice_of_modules_by_name() -> None:
    base, modules = _llama()
    found = adapter_targets(modules, base, ["q_proj"])
    assert found.names == ("q_proj",)
    assert found.modules == ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
    with pytest.raises(UserError, match=r"names q_prj, .*; choose from down_proj, o_proj, q_proj\."):
        adapter_targets(modules, base, ["q_prj", "o_proj"])


def test_weights_of_another_width_are_no_language_model() -> None:
    base, modules = _llama(hidden_size=32)
    with pytest.raises(UserError, match=r"no embedding of width 32 \(hidden_size\) with 2 layers"):
        adapter_targets(modules, base)


def _stored(folder: Path) -> dict[str, Shape]:
    tensors = read_headers(folder).items()
    return {name[: -len(".weight")]: t.shape for name, t in tensors if name.endswith(".weight")}


def _loaded(model: torch.nn.Module) -> dict[str, Shape]:
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    return {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, kinds)}
