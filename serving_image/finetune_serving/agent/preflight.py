"""What can be known to fail before the engine is asked: pure checks on manifest and adapter_config.json.

The engine reports the same mistakes as an untyped 500 after stopping everyone's generation for the load,
and older versions served wrong outputs without a word; so they are refused here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import AdapterManifest, VersionEntry

# Initialisations that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ) change base weights.
_HARMLESS_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
# PEFT option -> what to call it; any value that counts as true is refused.
_REFUSED_OPTIONS = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA bias",
    "modules_to_save": "modules_to_save",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer_replication",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
    "trainable_token_indices": "trainable_token_indices",
}


@dataclass(frozen=True)
class Limits:
    """What this server is: its base (fingerprint, Unix seconds of its files) and its largest rank.

    `base_template_kwargs` are what prompts to the base pass to the chat template. `derived_from` is the
    fingerprint of the model that the base is a quantised form of.
    """

    base_fingerprint: str
    max_rank: int
    base_published: int = 0
    base_template_kwargs: Mapping[str, JsonValue] = field(default_factory=dict)
    derived_from: str | None = None


def check_manifest(manifest: AdapterManifest, entry: VersionEntry, limits: Limits) -> None:
    """RefusedError when the published manifest rules the version out."""
    if manifest.kind != "Adapter":
        text = (
            f"{entry.source} holds a {manifest.kind}, not an Adapter; serve it as the base of a ModelServer."
        )
        raise RefusedError("InvalidArtifact", text)
    if manifest.base_model.fingerprint not in (limits.base_fingerprint, limits.derived_from):
        trained, here = manifest.base_model.fingerprint[7:19], limits.base_fingerprint[7:19]
        text = (
            f"The adapter was trained on base {trained}… but this server runs {here}…; "
            "train it on this server's base, or serve it where its own base runs. If this base is a "
            "quantised form of that one, its ModelServer must say so in spec.baseModel.derivedFrom."
        )
        raise RefusedError("BaseMismatch", text)
    if not manifest.promoted and not entry.allow_unpromoted:
        text = "The adapter did not pass its evaluation gate; set allowUnpromoted to serve it all the same."
        raise RefusedError("Unpromoted", text)
    if manifest.adapter is not None:
        check_rank(manifest.adapter.rank, limits.max_rank)


def check_config(config: Mapping[str, Any], limits: Limits) -> None:
    """RefusedError when adapter_config.json asks for what the engine cannot do."""
    if config.get("peft_type") != "LORA":
        found = config.get("peft_type")
        raise RefusedError(
            "UnsupportedAdapter", f"adapter_config.json has peft_type {found!r}; only LORA is served."
        )
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        text = "adapter_config.json has no positive rank `r` (or `rank_pattern`); save it with PEFT again."
        raise RefusedError("InvalidArtifact", text)
    check_rank(max(rank for rank in ranks if isinstance(rank, int)), limits.max_rank)
    for feature in unsupported_features(config):
        text = f"The engine cannot serve {feature}; train the adapter without it."
        raise RefusedError("UnsupportedAdapter", text)


def check_rank(rank: int, limit: int) -> None:
    """RefusedError when the adapter's largest rank exceeds the server's maxLoraRank."""
    if rank > limit:
        text = f"The adapter has rank {rank}, the server's maxLoraRank is {limit}; raise it or train smaller."
        raise RefusedError("RankTooLarge", text)


def unsupported_features(config: Mapping[str, Any]) -> list[str]:
    """Names of the PEFT features in use that vLLM 0.32 refuses or ignores."""
    found = [label for option, label in _REFUSED_OPTIONS.items() if config.get(option)]
    if config.get("bias", "none") != "none":
        found.append(f"bias {config['bias']!r}")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _HARMLESS_INITS:
        found.append(f"init_lora_weights {init!r}")
    return found
