"""The plan counts the weights of each family from the headers of its files, as they are when they are loaded."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from finetune_trainer.base.shape import adapter_parameters, read_shape
from tests.families.families import Family
from tests.families.stages import Record, Refused, works

pytestmark = pytest.mark.families


def test_the_plan_counts_the_weights_that_are_loaded(
    family: Family, base: Path, lora: object, record_property: Record
) -> None:
    if not works(lora, family.refused.get("LoRA"), record_property) or isinstance(lora, Refused):
        return
    shape = read_shape(base)
    with torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(base)
        model = getattr(transformers, family.architecture)(config)
    stored = [buffer for name, buffer in model.named_buffers() if name in model.state_dict()]
    assert shape.parameters == sum(weight.numel() for weight in (*model.parameters(), *stored))
    assert bool(shape.beside) == (family.vision is not None)
    experts = [weight for name, weight in model.named_parameters() if "experts" in name.split(".")]
    assert (shape.experts.parameters if shape.experts else 0) == sum(weight.numel() for weight in experts)


@pytest.fixture
def llama_70b(tmp_path: Path) -> Path:
    """Llama 3.3 70B as its files lie on a volume, but with holes for weights."""
    config = transformers.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    _write_hollow(tmp_path / "model.safetensors", model.state_dict())
    return tmp_path


def test_a_70b_is_counted_from_its_headers(llama_70b: Path) -> None:
    shape = read_shape(llama_70b)
    assert shape.parameters == 70_553_706_496
    assert adapter_parameters(shape, 16) == 207_093_760


def _write_hollow(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """A safetensors file in bf16 whose data is a hole that takes no space."""
    header, end = {}, 0
    for name, weight in weights.items():
        start, end = end, end + 2 * weight.numel()
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
