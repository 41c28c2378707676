"""A model on the Hub is planned from its headers, without its weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.errors import UserError
from finetune_trainer.local.job import read_remote_base
from tests.hub_stand_in import COMMIT, OTHER, HubStandIn
from tests.unit.trainer_base.shapes import shape_by_config

CONFIG = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}


def _files(config: dict[str, Any]) -> dict[str, bytes]:
    """A model in two files with an index, as large models are stored."""
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **CONFIG), dtype=torch.bfloat16)
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    names = sorted(weights)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    files = {file: save({name: weights[name] for name in part}) for file, part in shards.items()}
    description = {"model_type": "llama", **config}
    return {
        **files,
        "config.json": json.dumps(description).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    """A running stand-in with one model of 2.5 MB."""
    monkeypatch.setenv("FT_CREDENTIALS_ROOT", str(tmp_path / "no-credentials"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    stand_in = HubStandIn(_files(CONFIG), {})
    monkeypatch.setenv("HF_ENDPOINT", stand_in.address)
    yield stand_in
    stand_in.stop()


def test_the_headers_are_enough(hub: HubStandIn, tmp_path: Path) -> None:
    shape = read_remote_base("hf://org/base", COMMIT, tmp_path / "base").shape()
    assert shape == shape_by_config({"model_type": "llama", **CONFIG})
    weights = sum(len(body) for body in hub.repositories["models/org/base"][0].values())
    assert hub.bytes_sent < weights / 5


def test_weights_of_another_model_are_refused(hub: HubStandIn, tmp_path: Path) -> None:
    hub.repositories["models/org/base"] = (_files({**CONFIG, "vocab_size": 999}), None)
    with pytest.raises(UserError, match="vocab_size is 999 in the one and 1000 rows"):
        read_remote_base("hf://org/base", COMMIT, tmp_path / "base").shape()


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("hf://org/base", OTHER, f"has no revision {OTHER}"),
        ("hf://org/private", COMMIT, "does not exist or is private"),
        ("hf://org/pickle", COMMIT, "lacks config.json or whole"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(
    source: str, revision: str, message: str, hub: HubStandIn, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_remote_base(source, revision, tmp_path / "base")


def test_a_damaged_header_is_refused(hub: HubStandIn, tmp_path: Path) -> None:
    hub.repositories["models/org/base"][0]["model-1.safetensors"] = b"<html>" * 99
    with pytest.raises(UserError, match=r"lacks config\.json or whole"):
        read_remote_base("hf://org/base", COMMIT, tmp_path / "base").shape()
