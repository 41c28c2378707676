"""Trainer and server must give a base the same fingerprint, or no adapter would ever load."""

import json
import random
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_serving.fingerprint import base_fingerprint
from finetune_trainer.fingerprint import TEXT_FILES, fingerprint


def _write(folder: Path, weights: dict[str, int], texts: dict[str, bytes], seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(seed)
    for name, size in weights.items():
        header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + source.randbytes(size))
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "size",
    [0, 1, 65535, 65536, 65537, 70_000, 16 * 65536, 3_000_017],
    ids=lambda size: f"{size} bytes of weights",
)
def test_both_agree_at_every_size(size: int, tmp_path: Path) -> None:
    folder = _write(tmp_path, {"model.safetensors": size}, {"config.json": b"{}", "README.md": b"ignored"})
    assert fingerprint(folder) == base_fingerprint(folder)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9-]{1,12}\.safetensors", fullmatch=True), st.integers(0, 200_000), min_size=1, max_size=4
    ),
    st.dictionaries(st.sampled_from(TEXT_FILES), st.binary(max_size=50), max_size=6),
)  # fmt: skip
def test_both_agree_on_any_folder(
    tmp_path_factory: pytest.TempPathFactory, weights: dict[str, int], texts: dict[str, bytes]
) -> None:
    folder = _write(tmp_path_factory.mktemp("base"), weights, texts)
    assert fingerprint(folder) == base_fingerprint(folder)


def test_the_byte_format_is_the_documented_one(tmp_path: Path) -> None:
    _write(tmp_path, {}, {"config.json": b"{}"})
    header = b'{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
    content = len(header).to_bytes(8, "little") + header + b"abc"
    (tmp_path / "model.safetensors").write_bytes(content)
    expected = sha256(
        b"config.json\0" + (2).to_bytes(8, "big") + b"{}"
        + b"model.safetensors\0" + len(content).to_bytes(8, "big") + content
    ).hexdigest()  # fmt: skip
    assert fingerprint(tmp_path) == base_fingerprint(tmp_path) == f"sha256:{expected}"


def test_weights_tokenizer_and_names_all_matter(tmp_path: Path) -> None:
    texts = {"config.json": b"{}", "tokenizer.json": b"{}"}
    seen = {
        fingerprint(_write(tmp_path / "a", {"model.safetensors": 500_000}, texts)),
        fingerprint(_write(tmp_path / "b", {"model.safetensors": 500_000}, texts, seed=1)),
        fingerprint(
            _write(tmp_path / "c", {"model.safetensors": 500_000}, {**texts, "tokenizer.json": b"{ }"})
        ),
        fingerprint(_write(tmp_path / "d", {"other.safetensors": 500_000}, texts)),
    }
    assert len(seen) == 4


def test_neither_counts_a_second_copy_of_the_weights(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"model.safetensors": 9}, {"config.json": b"{}"})
    before = fingerprint(folder)
    _write(folder, {"consolidated.safetensors": 9, "consolidated-00001-of-00002.safetensors": 9}, {})
    assert fingerprint(folder) == base_fingerprint(folder) == before


@pytest.mark.parametrize(
    "content", [b"", b"1234", (99).to_bytes(8, "little") + b"{}"], ids=["empty", "no header", "cut header"]
)
def test_both_refuse_a_broken_weight_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    for function in (fingerprint, base_fingerprint):
        with pytest.raises(ValueError, match="safetensors"):
            function(tmp_path)


def test_both_refuse_a_folder_without_weights(tmp_path: Path) -> None:
    for function in (fingerprint, base_fingerprint):
        with pytest.raises(ValueError, match="safetensors"):
            function(tmp_path)
