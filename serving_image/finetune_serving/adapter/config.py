"""adapter_config.json of PEFT: its types, what the engine cannot serve of it, and the rank of each module."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import regex
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
# Seconds of CPU. The engine compares every pattern with every module too, while it generates for nobody.
_COMPARING_SECONDS = 1.0

Rank = Annotated[int, Field(gt=0, le=2**31)]
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
            yield f"bias {str(self.bias)[:60]!r}"
        init = self.init_lora_weights
        if isinstance(init, str) and init.lower() not in _HARMLESS_INITS:
            yield f"init_lora_weights {init[:60]!r}"


def parse_config(content: bytes) -> AdapterConfig:
    """Read adapter_config.json; RefusedError names the field that is wrong."""
    try:
        kind = _Kind.model_validate_json(content).peft_type
        if kind != "LORA":
            found = "no peft_type" if kind is None else f"peft_type {str(kind)[:60]!r}"
            raise RefusedError("UnsupportedAdapter", f"{CONFIG} has {found}; only LORA is served.")
        return AdapterConfig.model_validate_json(content)
    except ValidationError as error:
        raise RefusedError.of_document(CONFIG, error) from error


@dataclass(frozen=True)
class Scale:
    """The rank of a module, and the factor of its product B·A."""

    rank: int
    factor: float


def scales_of(config: AdapterConfig, modules: Iterable[str]) -> dict[str, Scale]:
    """The scale of each module, named without PEFT's prefix, as PEFT and the engine work it out.

    RefusedError when a pattern of adapter_config.json is none, or when comparing takes too long.
    """
    ranks = _Patterns("rank_pattern", config.rank_pattern or {})
    alphas = _Patterns("alpha_pattern", config.alpha_pattern or {})
    scales = {}
    for module in modules:
        name = _pattern_name(module)
        rank, alpha = int(ranks.first(name, config.r)), alphas.first(name, config.lora_alpha)
        scales[module] = Scale(rank, alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)
    return scales


class _Patterns:
    """Numbers by pattern: the first one that matches the last parts of a module's name is taken."""

    def __init__(self, field: str, numbers: Mapping[str, float]) -> None:
        self._field = field
        self._numbers = [(self._compiled(pattern), number) for pattern, number in numbers.items()]
        self._end = time.thread_time() + _COMPARING_SECONDS

    def first(self, name: str, default: float) -> float:
        """The number of the first pattern that matches `name`."""
        for pattern, number in self._numbers:
            try:
                # The library lets other threads run meanwhile: the gateway's requests.
                found = pattern.match(name, concurrent=True, timeout=_COMPARING_SECONDS)
            except TimeoutError:
                raise self._slow() from None
            if found:
                return number
        if time.thread_time() > self._end:
            raise self._slow()
        return default

    def _compiled(self, pattern: str) -> "regex.Pattern[str]":
        try:
            return regex.compile(rf"(.*\.)?({pattern})$")
        except (regex.error, RecursionError, OverflowError) as error:
            text = (
                f"{CONFIG} has {pattern[:100]!r} in {self._field}, which is no regular expression: {error}."
            )
            raise RefusedError("InvalidArtifact", text) from error

    def _slow(self) -> RefusedError:
        text = f"Comparing {self._field} of {CONFIG} with the modules takes too long; name the modules in it."
        return RefusedError("InvalidArtifact", text)


def _pattern_name(module: str) -> str:
    """PEFT stores the two matrices of stacked experts under names that differ from those of the patterns."""
    if module.endswith(".experts.base_layer"):
        return module.removesuffix(".base_layer") + ".gate_up_proj"
    return module + ".down_proj" if module.endswith(".experts") else module
