"""What can be known to fail before the engine is asked: checks on an adapter's manifest, config and weights.

The engine reports the same mistakes as an untyped 500 after stopping everyone's generation for the load,
and serves some wrongly without a word; so they are refused here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO

from pydantic import JsonValue

from finetune_serving.adapter.base import BaseModules
from finetune_serving.adapter.config import AdapterConfig, scales_of
from finetune_serving.adapter.fit import check_modules, check_ranks
from finetune_serving.adapter.matrices import matrices_of
from finetune_serving.adapter.values import check_copies, check_values
from finetune_serving.adapter.weights import read_header
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import AdapterManifest, VersionEntry

WEIGHTS = "adapter_model.safetensors"
_LONGEST_HEADER = 24 * 1024 * 1024  # with 50,000 modules (every expert of a large model) it has 14 MiB


@dataclass(frozen=True)
class Limits:
    """What this server is: its base (fingerprint, Unix seconds of its files, modules) and its largest rank.

    `base_template_kwargs` are what prompts to the base pass to the chat template. `derived_from` is the
    fingerprint of the model that the base is a quantised form of.
    """

    base_fingerprint: str
    max_rank: int
    base_published: int = 0
    base_template_kwargs: Mapping[str, JsonValue] = field(default_factory=dict)
    base_modules: BaseModules = field(default_factory=BaseModules)
    derived_from: str | None = None


def check_manifest(manifest: AdapterManifest, entry: VersionEntry, limits: Limits) -> None:
    """RefusedError when the published manifest rules the version out."""
    if manifest.kind != "Adapter":
        kind = manifest.kind[:60]
        text = f"{entry.source} holds a {kind}, not an Adapter; serve it as the base of a ModelServer."
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


def check_config(config: AdapterConfig, limits: Limits) -> None:
    """RefusedError when adapter_config.json asks for what the engine cannot do."""
    check_rank(config.largest_rank, limits.max_rank)
    for feature in config.unsupported():
        text = f"The engine cannot serve {feature}; train the adapter without it."
        raise RefusedError("UnsupportedAdapter", text)


def check_weights(file: IO[bytes], config: AdapterConfig, limits: Limits) -> None:
    """RefusedError when the weights are broken, do not fit the base or have no effect; reads all of them."""
    try:
        matrices = matrices_of(read_header(file, _LONGEST_HEADER))
        check_modules(matrices.pairs, limits.base_modules, transposed=bool(config.fan_in_fan_out))
        scales = scales_of(config, matrices.pairs)
        check_ranks(matrices.pairs, scales)
        check_values(file, matrices.pairs, scales)
        check_copies(file, matrices.copied, limits.base_modules)
    except ValueError as error:
        raise RefusedError("InvalidArtifact", f"{WEIGHTS} cannot be read: {error}; save it again.") from error


def check_rank(rank: int, limit: int) -> None:
    """RefusedError when the adapter's largest rank exceeds the server's maxLoraRank."""
    if rank > limit:
        text = f"The adapter has rank {rank}, the server's maxLoraRank is {limit}; raise it or train smaller."
        raise RefusedError("RankTooLarge", text)
