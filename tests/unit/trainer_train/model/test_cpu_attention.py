"""Attention over packed rows on a CPU: what torch's own attention gives row by row."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from finetune_trainer.training.cpu_attention import row_attention

CASES = [
    ("one short row", [0, 5], 2, 2, 0),
    ("rows of one token beside longer ones", [0, 1, 7, 8], 2, 2, 0),
    ("a row of several blocks of queries", [0, 300, 310], 2, 2, 0),
    ("heads that share keys and values", [0, 40, 170], 6, 2, 0),
    ("a window shorter than a row", [0, 40, 170], 4, 2, 30),
    ("a window over several blocks", [0, 400], 2, 1, 150),
    ("a window longer than all rows", [0, 9, 20], 2, 2, 64),
]
IDS = [case[0] for case in CASES]
PARAMETERS = ("borders", "heads", "groups", "window")


def _inputs(borders: list[int], heads: int, groups: int) -> list[torch.Tensor]:
    torch.manual_seed(3)
    shapes = ((heads, 8), (groups, 8), (groups, 8))
    return [
        torch.randn(number, borders[-1], width, dtype=torch.float64, requires_grad=True)
        for number, width in shapes
    ]


def _row_by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: list[int], window: int
) -> torch.Tensor:
    outputs = []
    for first, end in pairwise(borders):
        rows = torch.arange(end - first)
        distance = rows[:, None] - rows
        seen = (distance >= 0) & (distance < (window or end))
        q, k, v = (tensor[None, :, first:end] for tensor in (query, key, value))
        outputs.append(scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0, enable_gqa=True)[0])
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize(PARAMETERS, [case[1:] for case in CASES], ids=IDS)
def test_outputs_and_gradients_are_those_of_each_row_alone(
    borders: list[int], heads: int, groups: int, window: int
) -> None:
    inputs = q, k, v = _inputs(borders, heads, groups)
    ours = row_attention(q, k, v, torch.tensor(borders, dtype=torch.int32), window)
    expected = _row_by_row(q, k, v, borders, window)
    torch.testing.assert_close(ours, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(expected, inputs, gradient)
    )


def test_torch_compile_can_trace_it() -> None:
    inputs = _inputs([0, 3, 7], 4, 2)
    operator = torch.ops.finetune.row_attention.default
    torch.library.opcheck(operator, (*inputs, torch.tensor([0, 3, 7], dtype=torch.int32), 0))


def test_gradients_of_long_rows_are_added_up_without_loss_in_bf16() -> None:
    torch.manual_seed(3)
    rough = [torch.randn(1, 2000, 64).bfloat16().requires_grad_() for _ in range(3)]
    exact = [tensor.detach().double().requires_grad_() for tensor in rough]
    borders, outer = torch.tensor([0, 2000], dtype=torch.int32), torch.randn(1, 2000, 64).bfloat16()
    found, expected = (
        torch.autograd.grad(row_attention(q * 64**-0.5, k, v, borders, 0), (q, k, v), outer.to(q.dtype))
        for q, k, v in (rough, exact)
    )
    for ours, right in zip(found, expected, strict=True):
        # A bf16 number is exact to 0.4 %.
        assert (ours.double() - right).norm() < 0.006 * right.norm()
