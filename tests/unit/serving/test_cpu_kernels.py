"""Our CPU kernels compute what vLLM's do, except that rows of the base get nothing from any adapter."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
pytestmark = pytest.mark.slow  # imports vLLM

SLOTS = [[0, 1, 0], [1, 1, 1], [0, -1, 1], [-1, -1, -1], [1], [-1]]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[ModuleType, ModuleType]]:
    """(vLLM's own kernels as they are in its source, ours)"""
    from finetune_serving import cpu_kernels

    theirs = importlib.util.find_spec("vllm.lora.ops.torch_ops.lora_ops")
    assert theirs is not None
    assert theirs.loader is not None
    original = importlib.util.module_from_spec(theirs)
    theirs.loader.exec_module(original)
    return original, cpu_kernels


@pytest.mark.parametrize("slots", SLOTS, ids=str)
@pytest.mark.parametrize("add", [True, False], ids=["adding", "replacing"])
def test_each_kernel_gives_what_vllm_gives_for_rows_with_an_adapter(
    both: tuple[ModuleType, ModuleType], slots: list[int], add: bool
) -> None:
    original, ours = both
    torch.manual_seed(0)
    rows, a, b = torch.randn(3, 8), torch.randn(2, 1, 4, 8), torch.randn(2, 1, 6, 4)
    indices, safe = torch.tensor(slots), torch.tensor(slots).clamp(min=0)
    without = torch.tensor(slots).expand(3) < 0
    want, got = torch.zeros(3, 4), torch.full((3, 4), 9.0)
    original.bgmv_shrink(rows, a, want, safe, 2.0)
    want[without] = 0
    ours.bgmv_shrink(rows, a, got, indices, 2.0)
    torch.testing.assert_close(got, want)
    start = torch.randn(3, 10)
    for name, place in (("bgmv_expand", ()), ("bgmv_expand_slice", (2, 6))):
        expected, output = start.clone(), start.clone()
        getattr(original, name)(want, b, expected, safe, *place, add)
        getattr(ours, name)(want, b, output, indices, *place, add)
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_queries_given_by_head_are_rotated_like_flat_ones(
    both: tuple[ModuleType, ModuleType], heads: int
) -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    given = {"rope_type": "default", "rope_theta": 1e6}
    with set_current_vllm_config(VllmConfig()):
        rope = get_rope(32, 64, is_neox_style=True, rope_parameters=given, dtype=torch.float32)
    positions, query, key = torch.arange(10), torch.randn(10, heads, 32), torch.randn(10, 1, 32)
    want = rope.forward_native(positions, query.clone(), key.clone())
    for got, right in zip(rope.forward_cpu(positions, query, key), want, strict=True):
        torch.testing.assert_close(got, right)


def test_vllm_calls_ours(both: tuple[ModuleType, ModuleType]) -> None:
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    _, ours = both
    assert lora_ops.bgmv_shrink is punica_cpu.bgmv_shrink is ours.bgmv_shrink
    assert punica_cpu.bgmv_expand_slice is ours.bgmv_expand_slice
