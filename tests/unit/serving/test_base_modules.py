"""What of an adapter is compared with the base: other names on loading, packed weights, several models in one."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from finetune_serving.adapter.base import BaseModules, Place, read_base
from finetune_serving.adapter.config import CONFIG, parse_config, scales_of
from finetune_serving.adapter.fit import check_modules, check_ranks
from finetune_serving.adapter.matrices import Pair, matrices_of
from finetune_serving.adapter.weights import Tensor, read_header
from finetune_serving.agent.refusal import RefusedError
from tests.adapter_variants import WEIGHTS, Workshop
from tests.tiny_models import make_multimodal_model, make_text_model

BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "U8": 1}
Stored = dict[str, tuple[str, list[int]]]


def write(path: Path, tensors: Stored) -> None:
    """A safetensors file of the right size; its values are zeros that take no space on the disk."""
    place, header = 0, {}
    for name, (dtype, shape) in tensors.items():
        end = place + BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)


def base(folder: Path, tensors: Stored, **config: Any) -> BaseModules:
    (folder / "config.json").write_text(json.dumps(config))
    write(folder / "model.safetensors", tensors)
    return read_base(folder)


def plain(prefix: str = "model.layers", layers: int = 2) -> Stored:
    """The weights of q_proj (64 x 32) in some layers."""
    return {f"{prefix}.{i}.self_attn.q_proj.weight": ("BF16", [64, 32]) for i in range(layers)}


def pair(outputs: int = 64, inputs: int = 32, rank: int = 4, table: bool = False) -> Pair:
    a, b = (rank, inputs), (outputs, rank)
    return Pair(Tensor("F32", a, 0, 4 * rank * inputs), Tensor("F32", b, 0, 4 * rank * outputs), table)


def outcome(modules: BaseModules, pairs: dict[str, Pair], transposed: bool = False) -> str:
    """The reason for which pairs are refused, "" when they fit."""
    try:
        check_modules(pairs, modules, transposed=transposed)
    except RefusedError as error:
        return error.reason
    return ""


Q = "0.self_attn.q_proj"
VISION = {"vision_config": {"hidden_size": 32}}


@pytest.mark.parametrize(
    ("prefix", "config", "adapter", "reason"),
    [
        pytest.param("model.layers", {}, "model.layers", "", id="the same name"),
        pytest.param("backbone.layers", {}, "model.layers", "", id="another first part, as of Nemotron-H"),
        pytest.param("decoder.layers", {}, "model.decoder.layers", "", id="no first part, as of OPT"),
        pytest.param("layers", {}, "model.layers", "", id="a base saved without its head"),
        pytest.param("model.layers", {}, "model.language_model.layers", "BaseMismatch", id="a part too many"),
        pytest.param("model.layers", {}, "model.blocks", "BaseMismatch", id="another stack"),
        pytest.param("language_model.model.layers", VISION, "model.language_model.layers", "", id="several models in one"),
        pytest.param("language_model.model.layers", VISION, "model.layers", "", id="the language model of several alone"),
    ],
)  # fmt: skip
def test_a_stack_may_be_called_otherwise(
    tmp_path: Path, prefix: str, config: dict[str, Any], adapter: str, reason: str
) -> None:
    assert outcome(base(tmp_path, plain(prefix), **config), {f"{adapter}.{Q}": pair()}) == reason


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param(["model.layers.0", "model.layers.1"], "", id="all by the base's name"),
        pytest.param(["text.layers.0", "text.layers.1"], "", id="all by another name"),
        pytest.param(["model.layers.0", "text.layers.1"], "BaseMismatch", id="some by one name and some by another"),
        pytest.param(["model.layers.1", "model.layers.2"], "BaseMismatch", id="a layer beyond the last"),
        pytest.param(["text.layers.1", "text.layers.2"], "BaseMismatch", id="a layer beyond the last of another name"),
    ],
)  # fmt: skip
def test_one_stack_has_one_name(tmp_path: Path, names: list[str], reason: str) -> None:
    pairs = {f"{name}.self_attn.q_proj": pair() for name in names}
    assert outcome(base(tmp_path, plain()), pairs) == reason


def test_of_two_stacks_of_one_name_that_with_the_same_sizes_is_meant(tmp_path: Path) -> None:
    tower = {f"vision.layers.{i}.self_attn.q_proj.weight": ("BF16", [8, 8]) for i in range(9)}
    modules = base(tmp_path, tower | plain("language_model.model.layers"), **VISION)
    assert outcome(modules, {f"model.language_model.layers.{Q}": pair()}) == ""
    assert outcome(modules, {f"model.vision_tower.layers.{Q}": pair(8, 8)}) == ""
    assert outcome(modules, {f"model.language_model.layers.{Q}": pair(9, 9)}) == "BaseMismatch"


PACKED = {
    "GPTQ": {f"model.layers.{Q}.qweight": ("I32", [4, 64]), f"model.layers.{Q}.scales": ("BF16", [1, 64])},
    "AWQ": {f"model.layers.{Q}.qweight": ("I32", [32, 8]), f"model.layers.{Q}.qzeros": ("I32", [1, 8])},
    "compressed-tensors": {f"model.layers.{Q}.weight_packed": ("I32", [64, 4])},
    "bitsandbytes": {f"model.layers.{Q}.weight": ("U8", [1024, 1]), f"model.layers.{Q}.weight.absmax": ("F32", [32])},
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED)
def test_of_packed_weights_only_the_names_are_compared(tmp_path: Path, kind: str) -> None:
    modules = base(tmp_path, PACKED[kind])
    assert outcome(modules, {f"model.layers.{Q}": pair()}) == ""
    assert outcome(modules, {"model.layers.1.self_attn.q_proj": pair()}) == "BaseMismatch"


def test_weights_in_eight_bit_floats_keep_their_sizes(tmp_path: Path) -> None:
    scaled: Stored = {
        f"model.layers.{Q}.weight_scale_inv": ("F32", [1, 1]),
        f"model.layers.{Q}.weight": ("F8_E4M3", [64, 32]),
    }
    modules = base(tmp_path, scaled)
    assert outcome(modules, {f"model.layers.{Q}": pair()}) == ""
    assert outcome(modules, {f"model.layers.{Q}": pair(inputs=16)}) == "BaseMismatch"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("model.layers.0.mlp.experts.3.gate_proj", "", id="each expert's own"),
        pytest.param("model.layers.0.mlp.experts.base_layer", "", id="all of a layer in one"),
        pytest.param("model.layers.1.mlp.experts", "BaseMismatch", id="of a layer without experts"),
    ],
)
def test_experts_are_compared_by_layer_as_everyone_names_them_otherwise(
    tmp_path: Path, name: str, reason: str
) -> None:
    experts: Stored = {
        f"model.layers.0.block_sparse_moe.experts.{i}.w1.weight": ("BF16", [8, 8]) for i in range(4)
    }
    assert outcome(base(tmp_path, experts | plain()), {name: pair(5, 5)}) == reason


def test_a_base_without_an_output_head_uses_its_embedding(tmp_path: Path) -> None:
    modules = base(tmp_path, plain() | {"model.embed_tokens.weight": ("BF16", [100, 32])})
    assert modules.shapes[Place("", -1, "lm_head")] == (100, 32)
    assert outcome(modules, {"lm_head": pair(100, 32)}) == ""
    assert outcome(modules, {"model.embed_tokens": pair(outputs=32, inputs=100, table=True)}) == ""
    assert outcome(modules, {"lm_head": pair(101, 32)}) == "BaseMismatch"


def test_weights_may_be_stored_transposed_when_the_adapter_says_so(tmp_path: Path) -> None:
    modules = base(tmp_path, {"h.0.c_attn.weight": ("F32", [32, 96])})
    assert outcome(modules, {"transformer.h.0.c_attn": pair(96, 32)}, transposed=True) == ""
    assert outcome(modules, {"transformer.h.0.c_attn": pair(96, 32)}) == "BaseMismatch"


def test_what_latent_attention_joins_is_refused(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.kv_b_proj"
    tensors: Stored = plain() | {f"{name}.weight": ("BF16", [64, 32])}
    assert outcome(base(tmp_path, tensors, kv_lora_rank=16), {name: pair()}) == "UnsupportedAdapter"


def test_a_base_of_which_nothing_is_known_refuses_nothing() -> None:
    assert outcome(BaseModules(), {"x": pair()}) == ""


def test_the_files_of_the_index_are_read_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path / "model-1.safetensors", plain(layers=1))
    write(tmp_path / "old.safetensors", plain(layers=5))
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-1.safetensors"}}')
    assert len(read_base(tmp_path).shapes) == 1


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40])
def test_a_damaged_base_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(damage)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        read_base(tmp_path)


FITTING = ("llama_tied", "phi3", "gpt_oss", "qwen3_moe", "qwen3_next", "lfm2", "gemma3", "mistral3")


@pytest.mark.parametrize("family", FITTING)
def test_what_peft_makes_on_a_real_architecture_fits_its_checkpoint(tmp_path: Path, family: str) -> None:
    several = family in ("gemma3", "mistral3")
    folder = (make_multimodal_model if several else make_text_model)(tmp_path / family, family)
    Workshop(folder, tmp_path).train(tmp_path / "adapter", several=several)
    with (tmp_path / "adapter" / WEIGHTS).open("rb") as file:
        pairs = matrices_of(read_header(file, 2**20)).pairs
    assert len(pairs) > 7
    config = parse_config((tmp_path / "adapter" / CONFIG).read_bytes())
    check_ranks(pairs, scales_of(config, pairs))
    check_modules(pairs, read_base(folder), transposed=False)
