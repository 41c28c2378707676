"""What the embedded cluster passes to the chart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft7Validator

from dev.chart import CHART, engine_type, values
from finetune_operator.contracts.settings import Settings, parse_settings

IMAGES = {"operator": "o", "trainer": "t", "serving": "s"}


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


def test_the_chart_and_the_operator_accept_them() -> None:
    given: dict[str, Any] = dict(values(IMAGES))
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(given)] == []
    settings = {key: value for key, value in given.items() if key in _settings()}
    settings["images"] = {name: IMAGES[name] for name in ("trainer", "serving")}
    assert parse_settings(json.dumps(settings)).engine_args[0] == "--enforce-eager"


def _settings() -> set[str]:
    return {field.alias or name for name, field in Settings.model_fields.items()}
