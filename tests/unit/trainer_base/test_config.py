"""config.json as transformers would read it: stated fields, other names, defaults of the class."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.base.config import parse_base_config, read_base_config
from finetune_trainer.errors import UserError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
GEMMA3 = {
    "model_type": "gemma3",
    "vision_config": {"hidden_size": 1152},
    "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34},
}

READ: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "heads share the hidden size when nothing says how wide they are",
        LLAMA,
        {"head_dim": 64, "kv_heads": 32, "multimodal": False, "architecture": "LlamaForCausalLM"},
    ),
    (
        "what Gemma 3 leaves out is what its class says",
        GEMMA3,
        {
            "multimodal": True,
            "model_type": "gemma3",
            "text_type": "gemma3_text",
            "heads": 8,
            "kv_heads": 4,
            "head_dim": 256,
            "tied": True,
            "positions": 131072,
            "vocab": 262208,
        },
    ),
    (
        "the widest layer counts where layers differ",
        {"model_type": "gemma3n_text", "intermediate_size": [8192, 16384]},
        {"intermediate": 16384},
    ),
    ("a null head_dim is left out", {**LLAMA, "head_dim": None}, {"head_dim": 64}),
    ("no sliding window is none", {**LLAMA, "sliding_window": None}, {"sliding_window": None}),
    (
        "Qwen3 MoE as its makers store it",
        {"model_type": "qwen3_moe", "num_experts": 64, "num_experts_per_tok": 8},
        {"experts": 64, "active_experts": 8},
    ),
    (
        "Qwen3 MoE as transformers 5 stores it (T12)",
        {"model_type": "qwen3_moe", "num_local_experts": 64},
        {"experts": 64},
    ),
    ("DeepSeek's name of experts", {"model_type": "deepseek_v3", "n_routed_experts": 32}, {"experts": 32}),
    ("no experts are none", {"model_type": "granitemoehybrid", "num_local_experts": 0}, {"experts": None}),
    ("GPT-2's names", {"model_type": "gpt2", "n_embd": 768, "n_layer": 12}, {"hidden": 768, "layers": 12}),
    (
        "Gemma 2's soft caps",
        {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        {"attention_softcap": 50.0, "logits_softcap": 30.0},
    ),
    (
        "kinds of layers",
        {**LLAMA, "layer_types": ["linear_attention", "full_attention"]},
        {"layer_types": ("linear_attention", "full_attention")},
    ),
    (
        "the method that weights are quantised by",
        {**LLAMA, "quantization_config": {"quant_method": "mxfp4"}},
        {"quantised": "mxfp4"},
    ),
    (
        "code of the repository's own",
        {"model_type": "new_one", "auto_map": {"AutoModelForCausalLM": "modeling.New"}},
        {"native": False, "hidden": None},
    ),
    (
        "a native model keeps an auto_map of former times",
        {**LLAMA, "auto_map": {"AutoModelForCausalLM": "modeling.New"}},
        {"native": True},
    ),
]


@pytest.mark.parametrize(("config", "expected"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_a_config_is_read_as_transformers_does(config: dict[str, Any], expected: dict[str, Any]) -> None:
    base = parse_base_config(config)
    assert {key: getattr(base, key) for key in expected} == expected


def test_an_unknown_family_has_only_what_its_config_states() -> None:
    base = parse_base_config({"model_type": "never_heard_of"})
    stated = {field.name for field in fields(base) if getattr(base, field.name)}
    assert stated == {"model_type", "text_type", "native", "positions"}


@pytest.mark.parametrize(
    ("field", "value"), [("vocab_size", "many"), ("num_hidden_layers", True), ("hidden_size", -1)]
)
def test_a_size_that_is_none_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"says {field}: {value}; it must be a whole number above 0"):
        parse_base_config({**LLAMA, field: value})


def test_a_size_that_nothing_states_is_named() -> None:
    with pytest.raises(UserError, match=r"\(never_heard_of\) lacks hidden_size"):
        parse_base_config({"model_type": "never_heard_of"}).require("hidden")


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
        read_base_config(tmp_path)


def test_a_config_is_read_from_its_folder_or_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert (
        read_base_config(tmp_path) == read_base_config(tmp_path / "config.json") == parse_base_config(LLAMA)
    )


def test_a_folder_without_a_config_is_told_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "consolidated.00.pth").touch()
    with pytest.raises(UserError, match=r"holds no config\.json .* it holds consolidated\.00\.pth"):
        read_base_config(tmp_path)
