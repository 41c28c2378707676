"""What the embedded cluster passes to the chart."""

from __future__ import annotations

import pytest

from dev.chart import engine_type


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu avx512f avx512_bf16 avx512vl", "bfloat16"),
        ("flags : fpu amx_bf16 amx_tile", "bfloat16"),
        ("flags : fpu avx512f avx512vl", "float32"),
    ],
    ids=["AVX-512 with bf16", "AMX", "neither"],
)
def test_the_engine_computes_in_the_type_that_the_processor_is_fast_at(flags: str, expected: str) -> None:
    assert engine_type(flags) == expected
