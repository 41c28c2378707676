"""Weights are read by their headers only, and refused when a file is not whole."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.base.headers import read_headers
from finetune_trainer.errors import UserError
from tests.unit.trainer_base.shapes import TINY


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder as transformers writes it, in several files with an index."""
    settings_ = {key: value for key, value in TINY.items() if key != "model_type"}
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **settings_), dtype=torch.bfloat16
    )
    network.save_pretrained(tmp_path, max_shard_size="20KB")
    return tmp_path


def test_weights_in_another_layout_beside_them_are_not_counted(tmp_path: Path) -> None:
    """Mistral publishes the same weights twice; transformers and the engine read one of them."""
    save_file({"a.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    save_file({"b.weight": torch.zeros(2, 2)}, tmp_path / "consolidated.safetensors")
    assert list(read_headers(tmp_path)) == ["a.weight"]


def test_the_headers_of_several_files_are_one_model(model: Path) -> None:
    assert (model / "model.safetensors.index.json").is_file()
    found = read_headers(model)
    assert {tensor.dtype for tensor in found.values()} == {"BF16"}
    assert found["model.embed_tokens.weight"].shape == (100, 32)
    assert len(found) == 2 + 3 * 9


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
