"""What is loaded, and what of it is trained: the same that the plan counts from the headers of the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.base.config import auto_class, parse_base_config, read_base_config
from finetune_trainer.base.headers import read_headers
from finetune_trainer.base.targets import adapter_targets
from finetune_trainer.errors import UserError
from finetune_trainer.training.model import load_model
from finetune_trainer.training.plan import Execution, Hardware, LoraPlan, TrainPlan
from tests.tiny_models import FAMILIES, make_multimodal_model, make_text_model

CPU = Hardware(cuda=False, precision="bf16")
RANK = 4


def make(folder: Path, family: str) -> Path:
    build = make_text_model if family in FAMILIES else make_multimodal_model
    return build(folder / family, family)


def load(folder: Path, lora: LoraPlan | None, stage: int = 0) -> Any:
    plan = TrainPlan(1, 1e-3, 8, 17, lora, Execution(1024, zero_stage=stage))
    return load_model(folder, read_base_config(folder), plan, CPU, None)


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3", "mistral3"])
def test_an_adapter_has_the_weights_that_the_plan_counts_from_the_headers(
    family: str, tmp_path: Path
) -> None:
    folder = make(tmp_path, family)
    stored = {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in read_headers(folder).items()
        if name.endswith(".weight")
    }
    planned = adapter_targets(stored, read_base_config(folder))
    adapter = trained(load(folder, LoraPlan(RANK, 8)))
    assert sum(map(torch.numel, adapter.values())) == RANK * sum(sum(stored[m]) for m in planned.modules)
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}
    assert all("lora_" in name for name in adapter)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss", "qwen3_next"])
def test_routed_experts_and_their_router_have_no_adapter(family: str, tmp_path: Path) -> None:
    names = trained(load(make(tmp_path, family), LoraPlan(RANK, 8)))
    assert not [name for name in names if {"experts", "router", "gate"} & set(name.split("."))]


@pytest.mark.parametrize("family", ["gemma3", "mistral3"])
@pytest.mark.parametrize("lora", [LoraPlan(RANK, 8), None], ids=["LoRA", "Full"])
def test_of_a_multimodal_model_only_the_language_model_is_trained(
    family: str, lora: LoraPlan | None, tmp_path: Path
) -> None:
    model = load(make(tmp_path, family), lora)
    parts = {"vision_tower", "multi_modal_projector"}
    assert trained(model)
    assert not [name for name in trained(model) if parts & set(name.split("."))]
    assert [name for name, _ in model.named_parameters() if parts & set(name.split("."))]


def test_chosen_modules_and_rank_stabilised_scaling_are_as_asked(tmp_path: Path) -> None:
    model = load(make(tmp_path, "llama"), LoraPlan(16, 32, rank_stabilized=True, target_modules=("q_proj",)))
    assert {name.split(".")[6] for name in trained(model)} == {"q_proj"}
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 32 / 16**0.5


def test_a_quantised_base_is_nf4_in_its_linear_layers_and_nowhere_else(tmp_path: Path) -> None:
    model = load(make(tmp_path, "llama"), LoraPlan(RANK, 8, quantized_base=True))
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    inside = {kind for name, kind in kinds.items() if name.endswith("q_proj.base_layer")}
    assert inside == {"Linear4bit"}
    assert [kind for name, kind in kinds.items() if name.endswith("lm_head")] == ["Linear"]
    assert {weight.dtype for weight in trained(model).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("stage", "expected"), [(2, torch.bfloat16), (0, torch.float32)], ids=["ZeRO-2", "no ZeRO"]
)
def test_full_training_keeps_fp32_weights_where_deepspeed_keeps_no_copies(
    stage: int, expected: torch.dtype, tmp_path: Path
) -> None:
    assert load(make(tmp_path, "llama"), None, stage).dtype is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "AutoModelForCausalLM"),
        ({"model_type": "llama"}, "AutoModelForCausalLM"),
        (
            {"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"]},
            "AutoModelForImageTextToText",
        ),
        (
            {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]},
            "AutoModelForImageTextToText",
        ),
        ({"model_type": "qwen3_5", "architectures": ["Qwen3_5ForCausalLM"]}, "AutoModelForCausalLM"),
    ],
    ids=[
        "a text model", "no architectures", "only a multimodal class",
        "both classes, stored as the multimodal one", "both classes, stored as the text one",
    ],
)  # fmt: skip
def test_a_base_is_loaded_by_the_class_that_it_was_stored_by(config: dict[str, Any], expected: str) -> None:
    assert auto_class(parse_base_config(config)) == expected


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"model_type": "t5"}, r"\(t5\) cannot be loaded for text"),
        (
            {"model_type": "own", "auto_map": {}},
            r"\(own\) cannot be loaded for text: .* code from its repository \(auto_map\) is not run",
        ),
        ({"model_type": "gemma3n", "vision_config": {"model_type": "gemma3n_vision"}}, "only with timm"),
    ],
    ids=["no class that writes text", "code of its own", "a vision tower of a package that is not there"],
)
def test_what_transformers_cannot_load_is_refused_by_its_config_alone(
    config: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        auto_class(parse_base_config(config))


def test_weights_that_are_missing_are_the_users_error(tmp_path: Path) -> None:
    folder = make(tmp_path, "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"weights lack lm_head\.weight"):
        load(folder, LoraPlan(RANK, 8))


def test_a_config_that_does_not_fit_the_weights_is_the_users_error(tmp_path: Path) -> None:
    folder = make(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(
        UserError, match=r"weights lack model\.layers\.0\.mlp\.down_proj\.weight, .* in the size"
    ):
        load(folder, LoraPlan(RANK, 8))


def test_what_transformers_refuses_to_load_is_the_users_error(tmp_path: Path) -> None:
    folder = make(tmp_path, "llama")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot load the base model \(\w+; the pod's log"):
        load(folder, LoraPlan(RANK, 8))
