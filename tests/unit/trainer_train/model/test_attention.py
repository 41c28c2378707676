"""Rows that follow one another in a micro-batch train as they would alone, on CPUs and on GPUs; torch's kernel
needs a GPU, so its place is taken by the same sums in plain torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from finetune_trainer.base.config import read_base_config
from finetune_trainer.training.attention import PACKED, can_pack, register, unpacked_attention
from finetune_trainer.training.batching import IGNORE_INDEX, Collator
from finetune_trainer.training.model import skeleton
from finetune_trainer.training.trainer import _projected_sum
from tests.tiny_models import FAMILIES, make_multimodal_model, make_text_model

PACKABLE = {
    "llama", "llama_tied", "qwen2", "qwen3", "phi3", "gemma3_text", "mixtral", "qwen3_moe", "qwen2_moe",
}  # fmt: skip
ROWS = [
    {"input_ids": [*range(3, 23)], "labels": [IGNORE_INDEX] * 9 + [*range(12, 23)]},
    {"input_ids": [*range(90, 103)], "labels": [IGNORE_INDEX, *range(91, 103)]},
    {"input_ids": [7, 5, 9], "labels": [IGNORE_INDEX, IGNORE_INDEX, 9]},
]


@pytest.fixture(params=["cpu", "gpu"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention of packed rows; torch's varlen_attn, which a CPU lacks, row by row."""

    def varlen_attn(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        starts: torch.Tensor, _starts: Any, longest: int, _longest: int,
        *, scale: float | None, window_size: tuple[int, int], enable_gqa: bool,
    ) -> torch.Tensor:  # fmt: skip
        parts = []
        for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            assert end - first <= longest
            places = torch.arange(end - first)
            back = places[:, None] - places[None, :]
            left = window_size[0] if window_size[0] >= 0 else longest
            row = (tensor[first:end].transpose(0, 1) for tensor in (query, key, value))
            seen = (back >= 0) & (back <= left)
            parts.append(
                scaled_dot_product_attention(*row, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
            )
        return torch.cat(parts, dim=1).transpose(0, 1)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    register(cuda=request.param == "gpu")


def load(folder: Path, attention: str | None) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_layers_of_plain_causal_attention_are_packed(family: str, tmp_path: Path) -> None:
    folder = make_text_model(tmp_path / family, family)
    base = read_base_config(folder)
    assert can_pack(skeleton(folder, base).get_decoder(), base) is (family in PACKABLE)


@pytest.mark.parametrize("family", sorted(PACKABLE))
def test_a_packed_micro_batch_has_the_loss_and_gradients_of_the_padded_one(
    family: str, tmp_path: Path, kernel: None
) -> None:
    folder = make_text_model(tmp_path / family, family)
    padded, packed = load(folder, unpacked_attention(read_base_config(folder))), load(folder, PACKED)
    losses = [
        _projected_sum(padded, Collator("padded")(ROWS)), _projected_sum(packed, Collator("packed")(ROWS))
    ]  # fmt: skip
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for mine, theirs in zip(packed.parameters(), padded.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["lfm2", "qwen3_next"])
def test_layers_with_a_convolution_would_leak_from_row_to_row(
    family: str, tmp_path: Path, kernel: None
) -> None:
    model = load(make_text_model(tmp_path / family, family), PACKED)
    whole = model(**Collator("packed")(ROWS[:2]), use_cache=False).logits[0, 20:]
    alone = model(**Collator("packed")(ROWS[1:2]), use_cache=False).logits[0]
    assert (whole - alone).abs().max() > 1e-4  # rows that stay apart agree to 1e-6


def test_a_multimodal_model_is_packed_by_its_language_model(tmp_path: Path) -> None:
    folder = make_multimodal_model(tmp_path / "gemma3", "gemma3")
    base = read_base_config(folder)
    assert can_pack(skeleton(folder, base).get_decoder(), base)


@pytest.mark.parametrize(
    ("family", "expected"),
    [("llama", "sdpa"), ("gemma2", "eager"), ("gpt_oss", "eager")],
    ids=["plain softmax", "a soft cap, which SDPA ignores", "sinks, which SDPA lacks"],
)
def test_padded_rows_get_attention_that_leaves_nothing_out(
    family: str, expected: str, tmp_path: Path
) -> None:
    folder = make_text_model(tmp_path / family, family)
    model = load(folder, unpacked_attention(read_base_config(folder)))
    assert model.config._attn_implementation == expected


@pytest.mark.parametrize("family", ["llama", "llama_tied", "gemma2", "gemma3_text", "qwen3_moe"])
def test_the_fused_head_of_gpus_has_the_loss_and_gradients_of_the_projected_one(
    family: str, tmp_path: Path
) -> None:
    from trl.trainer.utils import add_fused_lm_head

    from finetune_trainer.training.trainer import _fused_sum

    folder = make_text_model(tmp_path / family, family)
    projected, fused = load(folder, "eager"), load(folder, "eager")
    add_fused_lm_head(fused)
    losses = [
        _projected_sum(projected, Collator()(ROWS)), _fused_sum(fused, Collator()(ROWS))
    ]  # fmt: skip
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for mine, theirs in zip(fused.parameters(), projected.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
