"""However rows are laid out, and whichever way the loss is computed, the loss and its gradient are the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.attention.varlen
import transformers

from finetune_trainer.base.config import read_base_config
from finetune_trainer.training.attention import PACKED, can_pack, register, unpacked_attention
from finetune_trainer.training.batching import IGNORE_INDEX, Collator
from finetune_trainer.training.model import skeleton
from finetune_trainer.training.trainer import _fused_sum, _projected_sum, takes_fused_head
from tests.families import varlen
from tests.families.families import VOCABULARY, Family
from tests.families.stages import Record

pytestmark = pytest.mark.families

Loss = Callable[[transformers.PreTrainedModel, dict[str, torch.Tensor]], torch.Tensor]


def rows() -> list[dict[str, list[int]]]:
    """Three rows, longer than the sliding windows and chunks of the table and of unequal length."""
    chance = torch.Generator().manual_seed(1)
    found = []
    for length, trained in ((150, 12), (41, 30), (7, 3)):
        ids = torch.randint(0, VOCABULARY - 1, (length,), generator=chance).tolist()
        found.append({"input_ids": ids, "labels": [IGNORE_INDEX] * (length - trained) + ids[-trained:]})
    return found


@pytest.fixture(scope="session")
def expected(family: Family, base: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of each row alone, with transformers' plain attention and its own logits."""
    model = _load(family, base, "eager")
    results = [_measured(model, _plain_sum, Collator()([row])) for row in rows()]
    losses, gradients = zip(*results, strict=True)
    return torch.stack(losses).sum(), torch.stack(gradients).sum(0)


def test_padded_rows_train_as_each_row_alone(
    family: Family, base: Path, expected: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model = _load(family, base, unpacked_attention(read_base_config(base)))
    _assert_same(_measured(model, _projected_sum, Collator()(rows())), expected)


@pytest.mark.parametrize("cuda", [False, True], ids=["CPU", "GPU"])
def test_packed_rows_train_as_each_row_alone_where_packing_is_allowed(
    family: Family,
    base: Path,
    expected: tuple[torch.Tensor, torch.Tensor],
    cuda: bool,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    config = read_base_config(base)
    if not can_pack(skeleton(base, config).get_decoder(), config):
        record_property("note", "padded")
        pytest.skip("this family's rows are padded")
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen.varlen_attn)
    register(cuda)
    model = _load(family, base, PACKED)
    _assert_same(_measured(model, _projected_sum, Collator("packed")(rows())), expected)
    record_property("note", "packed")


def test_the_fused_head_computes_the_loss_of_the_plain_one(
    family: Family, base: Path, expected: tuple[torch.Tensor, torch.Tensor]
) -> None:
    from trl.trainer.utils import add_fused_lm_head

    model = _load(family, base, unpacked_attention(read_base_config(base)))
    if not takes_fused_head(model):
        pytest.skip("training does not fuse this family's head")
    add_fused_lm_head(model)
    _assert_same(_measured(model, _fused_sum, Collator()(rows())), expected)


def _load(family: Family, base: Path, attention: str | None) -> transformers.PreTrainedModel:
    kind = getattr(transformers, family.architecture)
    model: transformers.PreTrainedModel = kind.from_pretrained(
        base, dtype=torch.float32, attn_implementation=attention
    )
    return model.train()


def _plain_sum(model: transformers.PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )


def _measured(
    model: transformers.PreTrainedModel, loss: Loss, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient for the token embeddings, which passes every layer."""
    embedding = model.get_input_embeddings().weight
    total = loss(model, batch)
    (gradient,) = torch.autograd.grad(total, [embedding])
    return total.detach(), gradient


def _assert_same(
    found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]
) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-3)
    scale = expected[1].abs().max()
    torch.testing.assert_close(found[1] / scale, expected[1] / scale, rtol=1e-3, atol=1e-3)
