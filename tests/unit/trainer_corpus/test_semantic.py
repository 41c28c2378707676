"""Paraphrases by static word vectors; the vectors here are random ones in which synonyms are close."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from finetune_trainer.data.corpus.facts import learn, measure
from finetune_trainer.data.corpus.semantic import embed, embedding_matrix, leak_semantic
from finetune_trainer.data.holdout import HoldoutRow
from tests.defects import Example, row_of

VOCABULARY = [f"word{i}" for i in range(200)]
TRAIN = [" ".join(VOCABULARY[i : i + 12]) for i in range(0, 96, 12)]


def _matrix() -> np.ndarray:
    """Token i + 100 is a synonym of token i."""
    first = np.random.default_rng(1).normal(size=(100, 64))
    return np.concatenate((first, first + np.random.default_rng(2).normal(scale=0.1, size=(100, 64))))


def _encode(texts: list[str]) -> list[list[int]]:
    return [[VOCABULARY.index(word) for word in text.split()] for text in texts]


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        (" ".join(VOCABULARY[112:124]), True),
        (" ".join(reversed(VOCABULARY[12:24])), True),
        (" ".join(VOCABULARY[96:100] + VOCABULARY[196:200]), False),
    ],
    ids=["synonyms of training row 2", "its words in another order", "other words"],
)
def test_leak_semantic(prompt: str, found: bool) -> None:
    rows = [row_of(number, Example(text, "a")) for number, text in enumerate(TRAIN, start=1)]
    holdout = [HoldoutRow(5, "5", ({"role": "user", "content": prompt},), "r")]
    context = learn(rows, holdout)
    finding = leak_semantic(measure(rows, context), rows.__getitem__, holdout, context, _matrix(), _encode)
    assert (finding is not None) == found
    if finding:
        assert finding.rows == (5,)
        assert "row 5 training row 2" in finding.message


def test_the_matrix_of_a_base_is_read_as_it_is_stored(tmp_path: Path) -> None:
    matrix = _matrix().astype(np.float32)
    other = np.zeros((3, 3), dtype=np.float32)
    save_file({"a.first": other, "model.embed_tokens.weight": matrix}, tmp_path / "model.safetensors")
    mapped = embedding_matrix(tmp_path)
    assert mapped is not None
    assert np.array_equal(mapped, matrix)
    assert embedding_matrix(tmp_path / "absent") is None


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    values = np.array([[1.0, -2.5]], dtype=np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    assert np.array_equal(embed([[0], []], stored, np.ones(1, dtype=np.float32)), [[1.0, -2.5], [0.0, 0.0]])
