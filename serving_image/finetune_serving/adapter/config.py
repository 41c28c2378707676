"""adapter_config.json of PEFT: its types, what the engine cannot serve of it, and the rank of each module."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from finetune_serving.agent.refusal import RefusedError

CONFIG = "adapter_config.json"
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
    "kasa_config": "KaSA",
    "trainable_token_indices": "trainable_token_indices",
}
# The engine tries every pattern on every module while it generates for nobody.
_MOST_COMPARISONS = 2_000_000
_MOST_REPEATS = 2
_MOST_GROUPS = 20
_LONGEST_PATTERN = 500

Rank = Annotated[int, Field(gt=0)]
Alpha = Annotated[float, Field(allow_inf_nan=False)]


class _Kind(BaseModel):
    peft_type: JsonValue = None


class AdapterConfig(BaseModel):
    """What decides whether and how the engine applies an adapter; other fields are ignored.

    Options that the engine refuses are kept as they are: only whether they count as true matters.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    r: Rank
    lora_alpha: Alpha
    target_modules: list[str] | str | None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    use_rslora: JsonValue = False
    fan_in_fan_out: JsonValue = False
    bias: JsonValue = "none"
    init_lora_weights: JsonValue = True
    use_dora: JsonValue = None
    lora_bias: JsonValue = None
    modules_to_save: JsonValue = None
    alora_invocation_tokens: JsonValue = None
    layer_replication: JsonValue = None
    use_bdlora: JsonValue = None
    use_qalora: JsonValue = None
    kasa_config: JsonValue = None
    trainable_token_indices: JsonValue = None

    @property
    def largest_rank(self) -> int:
        """The largest rank of any module."""
        return max([self.r, *(self.rank_pattern or {}).values()])

    def unsupported(self) -> Iterator[str]:
        """Names of the PEFT features in use that vLLM 0.32 refuses or ignores."""
        yield from (label for option, label in _REFUSED_OPTIONS.items() if getattr(self, option))
        if self.bias != "none":
            yield f"bias {self.bias!r}"
        init = self.init_lora_weights
        if isinstance(init, str) and init.lower() not in _HARMLESS_INITS:
            yield f"init_lora_weights {init!r}"


def parse_config(content: bytes) -> AdapterConfig:
    """Read adapter_config.json; RefusedError names the field that is wrong."""
    try:
        kind = _Kind.model_validate_json(content).peft_type
        if kind != "LORA":
            found = "no peft_type" if kind is None else f"peft_type {str(kind)[:60]!r}"
            raise RefusedError("UnsupportedAdapter", f"{CONFIG} has {found}; only LORA is served.")
        config = AdapterConfig.model_validate_json(content)
    except ValidationError as error:
        raise RefusedError.of_document(CONFIG, error) from error
    for name in (*(config.rank_pattern or {}), *(config.alpha_pattern or {})):
        _check_pattern(name)
    return config


def _check_pattern(text: str) -> None:
    """A pattern that takes for ever to compare would stop the engine for everyone."""
    repeats, groups = text.count("*") + text.count("+"), text.count("(")
    long = len(text) > _LONGEST_PATTERN or repeats > _MOST_REPEATS or groups > _MOST_GROUPS
    if long or re.search(r"\)[*+?{]|\{|\(\?[^:]", text):
        problem = f"has the pattern {text[:100]!r}, which may take very long to compare; name the modules"
        raise RefusedError("InvalidArtifact", f"{CONFIG} {problem} instead.")
    try:
        _compiled(text)
    except re.error as error:
        problem = f"has the pattern {text[:100]!r}, which is no regular expression: {error}."
        raise RefusedError("InvalidArtifact", f"{CONFIG} {problem}") from error


def _compiled(pattern: str) -> re.Pattern[str]:
    """PEFT's rule: a pattern matches the last parts of a module's name."""
    return re.compile(rf"(.*\.)?({pattern})$")


@dataclass(frozen=True)
class Scales:
    """The rank of each module and the factor of its product B·A, as PEFT and the engine work them out."""

    config: AdapterConfig

    def check_effort(self, modules: int) -> None:
        """RefusedError when the patterns are too many to be compared with that many modules."""
        if (len(self._ranks) + len(self._alphas)) * modules > _MOST_COMPARISONS:
            text = f"{CONFIG} has more patterns in rank_pattern and alpha_pattern than can be compared with"
            raise RefusedError("InvalidArtifact", f"{text} {modules} modules; give modules one rank.")

    def rank(self, module: str) -> int:
        """The rank of a module, given by its name without PEFT's prefix."""
        return int(_first(self._ranks, _pattern_name(module), self.config.r))

    def factor(self, module: str) -> float:
        """What B·A is multiplied with."""
        alpha, rank = _first(self._alphas, _pattern_name(module), self.config.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.config.use_rslora else alpha / rank

    @cached_property
    def _ranks(self) -> Mapping[re.Pattern[str], float]:
        return {_compiled(name): rank for name, rank in (self.config.rank_pattern or {}).items()}

    @cached_property
    def _alphas(self) -> Mapping[re.Pattern[str], float]:
        return {_compiled(name): alpha for name, alpha in (self.config.alpha_pattern or {}).items()}


def _first(patterns: Mapping[re.Pattern[str], float], name: str, default: float) -> float:
    return next((value for pattern, value in patterns.items() if pattern.match(name)), default)


def _pattern_name(module: str) -> str:
    """PEFT stores the two matrices of stacked experts under names that differ from those of the patterns."""
    if module.endswith(".experts.base_layer"):
        return module.removesuffix(".base_layer") + ".gate_up_proj"
    return module + ".down_proj" if module.endswith(".experts") else module
