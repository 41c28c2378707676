"""Digests of JSON values: equal values have equal digests, whatever the order of their keys."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from finetune_operator.api.contracts import JobSpec, PublishSpec, job_spec
from finetune_operator.api.finetunejob import FineTuneJobSpec

_LATER = {"fallbackMethod", "rankStabilized", "targetModules"}
_RESULT_FIELDS = {"base_model", "method", "fallback_method", "lora", "dataset", "training", "evaluation"}
# How rows are checked and how memory is used decides whether and how fast a run ends, not with what.
_EASE_FIELDS = {
    "dataset": {"severities"},
    "training": {"micro_batch_tokens", "gradient_checkpointing", "zero_stage", "offload"},
}


def digest_of(value: Any) -> str:
    """`sha256:<64 hex>` over the canonical form of a JSON value (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def spec_digest(spec: FineTuneJobSpec) -> str:
    """What the result depends on: model, data, method and how it is judged, not where or with what leave."""
    result = job_spec(spec).model_dump(
        mode="json", by_alias=True, include=_RESULT_FIELDS, exclude=_EASE_FIELDS
    )
    chosen = (result["training"] or {}).values()
    training = None if all(v is None for v in chosen) else result["training"]
    return digest_of({**_of_the_first_version(result), "training": training})


def _of_the_first_version(result: dict[str, Any]) -> dict[str, Any]:
    """Fields that came later count where they are set: what was published before is still found."""
    lora = result["lora"] and {k: v for k, v in result["lora"].items() if k not in _LATER or v is not None}
    return {k: v for k, v in result.items() if k not in _LATER or v is not None} | {"lora": lora}


def input_digest(stage: str, spec: FineTuneJobSpec | JobSpec, publish: PublishSpec | None = None) -> str:
    """What one stage's outcome depends on; attempt and names are left out."""
    given = spec if isinstance(spec, JobSpec) else job_spec(spec)
    decided = None if publish is None else publish.to_json_value()
    return digest_of({"stage": stage, "spec": given.to_json_value(), "publish": decided})
