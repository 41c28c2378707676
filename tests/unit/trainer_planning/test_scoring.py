"""On how many GPUs the engine scores a base, and what is said where none of the job's hold it."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_trainer.base.config import parse_base_config
from finetune_trainer.base.shape import adapter_parameters
from finetune_trainer.planning.layouts import Gpu
from finetune_trainer.planning.memory import GIB
from finetune_trainer.planning.scoring import (
    NoScoring,
    Scoring,
    Served,
    divisible,
    engine_bytes,
    plan_scoring,
    token_bytes,
)
from tests.unit.trainer_base.shapes import (
    LLAMA_8B,
    LLAMA_70B,
    MIXTRAL_8X7B,
    QWEN25_7B,
    SMOLLM2_135M,
    shape_by_config,
)

H100, H200, L4 = Gpu(79.6, "h100"), Gpu(140.4, "h200"), Gpu(22.5, "l4")


def served(config: dict[str, Any], longest: int = 4096, rank: int = 16) -> Served:
    shape = shape_by_config(config)
    return Served(parse_base_config(config), shape, adapter_parameters(shape, rank), longest)


SPLITS = [
    ("a small base", served(SMOLLM2_135M), L4, 8, 1),
    ("8B on a card of 24 GB", served(LLAMA_8B, longest=2048), L4, 8, 1),
    ("8B with long rows on a card of 24 GB", served(LLAMA_8B, longest=32768), L4, 8, 2),
    ("70B on H200", served(LLAMA_70B), H200, 8, 2),
    ("70B on H100", served(LLAMA_70B), H100, 8, 2),
    ("70B on H100 with long rows", served(LLAMA_70B, longest=16384), H100, 8, 4),
    ("a mixture on H100", served(MIXTRAL_8X7B), H100, 8, 2),
    ("28 heads go to 2, 4 or 7 GPUs, not to 3", served(QWEN25_7B, longest=8192), Gpu(11), 8, 4),
]


@pytest.mark.parametrize(
    ("base", "gpu", "most", "gpus"), [case[1:] for case in SPLITS], ids=[case[0] for case in SPLITS]
)
def test_the_fewest_gpus_that_hold_the_base_are_taken(base: Served, gpu: Gpu, most: int, gpus: int) -> None:
    plan = plan_scoring(base, gpu, most)
    assert isinstance(plan, Scoring)
    assert (plan.gpus, plan.gpu) == (gpus, gpu)
    assert plan.bytes <= plan.limit == pytest.approx(0.92 * gpu.memory_gib * GIB)
    fewer = [count for count in range(1, gpus) if divisible(base, count)]
    assert all(engine_bytes(base, gpu, count) > plan.limit for count in fewer)


@pytest.mark.parametrize(
    ("config", "possible"),
    [
        (LLAMA_70B, [1, 2, 4, 8]),
        (QWEN25_7B, [1, 2, 4]),
        (SMOLLM2_135M, [1, 3]),
        (MIXTRAL_8X7B, [1, 2, 4, 8]),
    ],
    ids=["64 heads, 8 of keys", "28 heads, 4 of keys", "9 heads, 3 of keys", "experts"],
)
def test_a_base_is_divided_as_vllm_can(config: dict[str, Any], possible: list[int]) -> None:
    assert [count for count in range(1, 9) if divisible(served(config), count)] == possible


def test_keys_and_values_of_a_head_are_kept_by_every_gpu_when_gpus_outnumber_heads() -> None:
    base = served(LLAMA_8B)
    assert [token_bytes(base, gpus) for gpus in (1, 8, 16)] == [131_072, 16_384, 16_384]


def test_latent_attention_keeps_one_vector_for_all_heads() -> None:
    base = served(LLAMA_8B)
    latent = replace(base, config=replace(base.config, irregular=("kv_lora_rank",)))
    assert token_bytes(latent, 1) == token_bytes(latent, 8) == 2 * 32 * 576


REFUSALS = [
    ("one GPU of two that it takes", served(LLAMA_70B), H200, 1, (), "set resources.gpusPerNode: 2, or remove"),
    ("a larger kind holds it", served(LLAMA_8B), Gpu(16, "t4"), 1, (H200, L4),
     "set resources.gpusPerNode: 2, or set resources.gpuType: l4, or remove"),
    ("no number of them holds it", served(LLAMA_70B, longest=131_072), Gpu(16, "t4"), 2, (L4,), "may use 14.7 GiB; remove"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "gpu", "most", "others", "advice"),
    [case[1:] for case in REFUSALS],
    ids=[case[0] for case in REFUSALS],
)
def test_a_base_that_cannot_be_scored_is_refused_with_what_helps(
    base: Served, gpu: Gpu, most: int, others: tuple[Gpu, ...], advice: str
) -> None:
    plan = plan_scoring(base, gpu, most, others)
    assert isinstance(plan, NoScoring)
    assert advice in plan.message
    assert plan.message.endswith("add EvalMissing to spec.evaluation.accept.")
