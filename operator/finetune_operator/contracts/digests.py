"""Digests of JSON values: equal values have equal digests, whatever the order of their keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from finetune_operator.api.finetunejob import FineTuneJobSpec
from finetune_operator.contracts.job import JobSpec, PublishSpec, job_spec

# The fields whose null counts in the spec digest, since it did in the first version. Of every other field a
# null counts as if the field did not exist, so a field that comes later changes no digest until it is set.
_NULLS_OF_THE_FIRST_VERSION = {
    "revision", "fingerprint", "lora", "rank", "alpha", "training", "epochs", "learningRate",
    "effectiveBatchSize", "maxLength", "seed", "evaluation", "fields", "schema", "primary",
}  # fmt: skip
_RESULT_FIELDS = {"base_model", "method", "fallback_method", "lora", "dataset", "training", "evaluation"}
# How rows are checked, how memory is used, how the judge is asked and where scores are sent to decides
# whether, how fast and for how much a run ends, not with what.
_EASE_FIELDS: dict[str, Any] = {
    "dataset": {"severities"},
    "training": {"micro_batch_tokens", "gradient_checkpointing", "zero_stage", "offload"},
    "evaluation": {
        "export": True,
        "judge": {
            "price_per_million_input_tokens",
            "price_per_million_output_tokens",
            "timeout_seconds",
            "max_concurrency",
        },
    },
}


def digest_of(value: Any) -> str:
    """`sha256:<64 hex>` over the canonical form of a JSON value (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def spec_digest(spec: FineTuneJobSpec | JobSpec) -> str:
    """What the result depends on: model, data, method and how it is judged, not where or with what leave."""
    result = _job_spec(spec).model_dump(
        mode="json", by_alias=True, include=_RESULT_FIELDS, exclude=_EASE_FIELDS
    )
    chosen = (result["training"] or {}).values()
    training = None if all(v is None for v in chosen) else result["training"]
    return digest_of(_without_nulls({**result, "training": training}, but=_NULLS_OF_THE_FIRST_VERSION))


def input_digest(stage: str, spec: FineTuneJobSpec | JobSpec, publish: PublishSpec | None = None) -> str:
    """What one stage's outcome depends on; attempt and names are left out."""
    decided = None if publish is None else publish.to_json_value()
    given = {"stage": stage, "spec": _job_spec(spec).to_json_value(), "publish": decided}
    return digest_of(_without_nulls(given))


def _job_spec(spec: FineTuneJobSpec | JobSpec) -> JobSpec:
    return spec if isinstance(spec, JobSpec) else job_spec(spec)


def _without_nulls(value: Any, but: Collection[str] = ()) -> Any:
    """A JSON value without the keys that are null, at every depth; those named in `but` stay."""
    if isinstance(value, list):
        return [_without_nulls(item, but) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: _without_nulls(v, but) for k, v in value.items() if v is not None or k in but}
