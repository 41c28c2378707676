"""Weights beside a config.json: read by their headers only, and refused when they are another model's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.base.headers import Tensor, read_headers
from finetune_trainer.errors import UserError
from finetune_trainer.planning.headers import shape_of_folder, verify
from finetune_trainer.planning.shape import shape_of
from tests.unit.trainer_planning import shapes

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


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder as transformers writes it, in several files with an index."""
    settings_ = {key: value for key, value in TINY.items() if key != "model_type"}
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **settings_), dtype=torch.bfloat16
    )
    network.save_pretrained(tmp_path, max_shard_size="20KB")
    return tmp_path


def _change(model: Path, **fields: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_folder_of_several_files_is_its_config(model: Path) -> None:
    assert (model / "model.safetensors.index.json").is_file()
    assert shape_of_folder(model) == shape_of(TINY)
    assert {tensor.dtype for tensor in read_headers(model).values()} == {"BF16"}


def test_a_config_alone_is_enough(model: Path) -> None:
    assert shape_of_folder(model / "config.json") == shape_of(TINY)
    for path in model.glob("*.safetensors*"):
        path.unlink()
    assert shape_of_folder(model) == shape_of(TINY)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 101}, "vocab_size x hidden_size is 101 x 32 in the one and 100 x 32 in the other"),
        ({"num_hidden_layers": 4}, "num_hidden_layers is 4 in the one and 3 in the other"),
        ({"intermediate_size": 81}, "sizes is .* parameters in the one"),
        ({"tie_word_embeddings": False}, "sizes is .* parameters in the one"),
    ],
    ids=["vocabulary", "layers", "width", "output head"],
)
def test_weights_of_another_model_are_refused(model: Path, fields: dict[str, Any], message: str) -> None:
    _change(model, **fields)
    with pytest.raises(UserError, match=message):
        shape_of_folder(model)


def test_the_stored_copy_of_a_tied_head_and_old_buffers_do_not_count() -> None:
    tensors = _tensors(shape_of(TINY).parameters - 3200)
    tensors["lm_head.weight"] = Tensor("F32", (100, 32))
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor("F32", (4,))
    tensors["vision_tower.layers.9.weight"] = Tensor("F32", (7, 7))
    verify(shape_of(TINY), tensors)


def test_quantised_weights_are_refused() -> None:
    tensors = _tensors(shape_of(TINY).parameters - 3200)
    tensors["model.layers.0.mlp.up_proj.qweight"] = Tensor("I32", (2, 2))
    with pytest.raises(UserError, match=r"quantised \(I32\)"):
        verify(shape_of(TINY), tensors)


def test_a_missing_file_is_named(model: Path) -> None:
    gone = sorted(model.glob("*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(UserError, match=f"lacks {gone.name}, which its index names"):
        read_headers(model)


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"weight_map": 3}', b'{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_refused(model: Path, content: bytes) -> None:
    (model / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(UserError, match="has no weight_map"):
        read_headers(model)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_or_damaged_header_is_refused_or_read_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    path = folder / "model.safetensors"
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, path)
    whole = path.read_bytes()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    path.write_bytes(cut)
    with pytest.raises(UserError, match=r"model.safetensors is no whole safetensors file"):
        read_headers(folder)


@pytest.mark.parametrize(
    "content",
    [b"<!doctype html>" * 9, b"\xff" * 64, (2).to_bytes(8, "little") + b"[]", b""],
    ids=["HTML", "a length beyond all files", "a list", "nothing"],
)
def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="no whole safetensors file"):
        read_headers(tmp_path)


def test_the_text_part_of_a_model_with_pictures_is_verified() -> None:
    shape = shape_of(shapes.GEMMA3_4B)
    rest = shape.parameters - shape.embedding
    tensors = {f"language_model.model.layers.{i}.x": Tensor("BF16", (rest // 34,)) for i in range(34)}
    tensors["language_model.model.norm.weight"] = Tensor("BF16", (rest - 34 * (rest // 34),))
    tensors["language_model.model.embed_tokens.weight"] = Tensor("BF16", (262208, 2560))
    verify(shape, tensors)


def _tensors(rest: int) -> dict[str, Tensor]:
    """An embedding, three layers and a norm that together have the tiny model's parameters."""
    names = [f"model.layers.{number}.x" for number in range(3)]
    return {
        "model.embed_tokens.weight": Tensor("BF16", (100, 32)),
        **{name: Tensor("F32", (1,)) for name in names},
        "model.norm.weight": Tensor("BF16", (rest - 3,)),
    }
