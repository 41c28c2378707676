"""The one reading of a base model's config.json.

What it leaves out has the default of its transformers class, as when the model is loaded; a model_type that
transformers does not know has none. The classes need no torch.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from finetune_trainer.errors import UserError
from finetune_trainer.lean import hiding

_UNKNOWN_POSITIONS = 131072  # the longest training.maxLength that a job may ask for
# transformers' auto classes for models that write text
AutoClass = Literal["AutoModelForCausalLM", "AutoModelForImageTextToText"]
# Where multimodal models keep the configuration of their language model.
_LANGUAGE_PARTS = ("text_config", "llm_config")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# Latent attention, state spaces, convolutions, embeddings per layer: parts beside attention and feed-forward.
_IRREGULAR = re.compile(r"lora_rank$|per_layer_input|^linear_.*head|conv|mamba|state_size|altup")
# Of attention and the dense feed-forward part, as transformers' classes name them.
_JOINED = ("self_attn.qkv_proj", "mlp.gate_up_proj")
_ACTIVE_EXPERTS = ("num_experts_per_tok", "top_k_experts")


@dataclass(frozen=True)
class BaseConfig:
    """A base model by its config.json; sizes are of its language model, None where nothing states them.

    `multimodal` models keep their language model in a part of its own and have others beside it.
    `embedding_width` is that of the tokens, which some models (OPT-350m) project to `hidden`.
    `model_type` is the whole model's, `text_type` the language model's. `layer_types` are transformers'
    (full_attention, sliding_attention, linear_attention, ...), () where the class has one kind. `quantised`
    names the method that the weights are stored by. `native` says whether transformers has the model's code;
    without, the repository's own would run (`auto_map`). `missing_package` is one that its code needs and
    that is not installed. `further_layers` are numbered behind `layers`: they predict further tokens and are
    not loaded. `irregular` are the fields of parts that not every decoder has: with them the config alone
    does not tell the sizes. `joined` are layers that the class has in place of several (qkv_proj).
    """

    architecture: str | None
    model_type: str
    text_type: str
    multimodal: bool
    native: bool
    missing_package: str | None
    quantised: str | None
    tied: bool
    positions: int
    vocab: int | None
    hidden: int | None
    embedding_width: int | None
    layers: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    intermediate: int | None
    experts: int | None
    active_experts: int | None
    expert_intermediate: int | None
    layer_types: tuple[str, ...]
    sliding_window: int | None
    attention_softcap: float | None
    logits_softcap: float | None
    further_layers: int
    irregular: tuple[str, ...]
    joined: tuple[str, ...]

    def require(self, field: str) -> int:
        """A size that the plan depends on; UserError when neither config.json nor transformers states it."""
        value = getattr(self, field)
        if not isinstance(value, int):
            text = f"The base model's config.json ({self.model_type}) lacks {_FIELDS[field]}"
            raise UserError(f"{text}, which its memory depends on; add it.")
        return value


_FIELDS = {
    "vocab": "vocab_size",
    "hidden": "hidden_size",
    "embedding_width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate": "intermediate_size",
    "experts": "num_experts",
    "active_experts": "num_experts_per_tok",
    "expert_intermediate": "moe_intermediate_size",
}


def read_base_config(path: Path) -> BaseConfig:
    """The config of a model, given as its folder or config.json; UserError when it cannot be used."""
    return parse_base_config(_read(path))


def parse_base_config(config: Mapping[str, Any]) -> BaseConfig:
    """The config that a parsed config.json describes; UserError for a size that is none."""
    part = next((config[key] for key in _LANGUAGE_PARTS if isinstance(config.get(key), Mapping)), None)
    text = {**config, **part} if part is not None else dict(config)
    read = _Reader(text, _class_of(text.get("model_type")))
    hidden, heads = read.count("hidden_size"), read.count("num_attention_heads")
    architectures = config.get("architectures")
    return BaseConfig(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else None,
        model_type=str(config.get("model_type")),
        text_type=str(text.get("model_type")),
        multimodal=part is not None,
        native=_class_of(config.get("model_type")) is not None or "auto_map" not in config,
        missing_package=_missing_package(config),
        quantised=_quantisation(config),
        tied=bool(read.value("tie_word_embeddings")),
        positions=read.count("max_position_embeddings") or _UNKNOWN_POSITIONS,
        vocab=read.count("vocab_size"),
        hidden=hidden,
        embedding_width=read.count("word_embed_proj_dim") or hidden,
        layers=read.count("num_hidden_layers"),
        heads=heads,
        # Llama 2 and its like state neither: one key per query head, heads that share the hidden size.
        kv_heads=read.count("num_key_value_heads") or heads,
        head_dim=read.count("head_dim") or (hidden // heads if hidden and heads else None),
        intermediate=read.count("intermediate_size"),
        experts=read.first(_EXPERTS),
        active_experts=read.first(_ACTIVE_EXPERTS),
        expert_intermediate=read.count("moe_intermediate_size") or read.count("intermediate_size"),
        layer_types=tuple(map(str, read.value("layer_types") or ())),
        sliding_window=read.count("sliding_window"),
        attention_softcap=read.number("attn_logit_softcapping"),
        logits_softcap=read.number("final_logit_softcapping"),
        further_layers=read.count("num_nextn_predict_layers") or 0,
        irregular=read.irregular(),
        joined=read.joined(),
    )


@dataclass(frozen=True)
class _Reader:
    """The language model's fields: as stated, under the name that the class gives them, or its default."""

    stated: Mapping[str, Any]
    kind: type | None

    def value(self, key: str) -> Any:
        stored = getattr(self.kind, "attribute_map", {}).get(key, key)
        found = (self.stated.get(key), self.stated.get(stored), getattr(self.kind, stored, None))
        return next((value for value in found if value is not None and not isinstance(value, property)), None)

    def first(self, keys: tuple[str, ...]) -> int | None:
        return next((count for key in keys if (count := self.count(key))), None)

    def count(self, key: str) -> int | None:
        """A size, the largest where layers differ; None for 0 too, which says "none" (experts, a window)."""
        value = self.value(key)
        if isinstance(value, list) and value and all(isinstance(size, int) for size in value):
            value = max(value)
        if value is None or (value == 0 and not isinstance(value, bool)):
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            text = f"The base model's config.json ({self.stated.get('model_type')}) says {key}:"
            raise UserError(f"{text} {str(value)[:40]}; it must be a whole number above 0.")
        return int(value)

    def irregular(self) -> tuple[str, ...]:
        fields = {*self.stated, *getattr(self.kind, "__annotations__", {})}
        known = sorted(key for key in fields if _IRREGULAR.search(key) and self.value(key))
        plain = all(str(kind).endswith("attention") for kind in self.value("layer_types") or ())
        linear = any(str(kind).startswith("linear") for kind in self.value("layer_types") or ())
        return (*known, *(() if plain and not linear else ("layer_types",)))

    def joined(self) -> tuple[str, ...]:
        """By the class's plan of tensor parallelism, which lists its layers."""
        layers = getattr(self.kind, "base_model_tp_plan", None) or {}
        return tuple(name for name in _JOINED if f"layers.*.{name}" in layers)

    def number(self, key: str) -> float | None:
        value = self.value(key)
        return float(value) if isinstance(value, int | float) and value else None


def _read(path: Path) -> dict[str, Any]:
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        held = f"; it holds {_names(path)}" if path.is_dir() else ""
        text = f"{path} holds no config.json that can be read ({error.strerror}{held})"
        raise UserError(f"{text}. Give a base model's folder or its config.json.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"The base model's {file} is not JSON; repair it.") from error
    if not isinstance(config, dict):
        raise UserError(f"The base model's {file} is not a JSON object; repair it.")
    return config


def _names(folder: Path) -> str:
    return ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"


def _class_of(model_type: object) -> type | None:
    with hiding():
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    # Its get() would not import the class.
    return CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None  # noqa: SIM401


def _missing_package(config: Mapping[str, Any]) -> str | None:
    """What transformers cannot load the model without: it takes some vision towers (Gemma 3n's) from timm."""
    with hiding():
        from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
    parts = (part.get("model_type") for part in config.values() if isinstance(part, Mapping))
    timm = any(str(MODEL_MAPPING_NAMES.get(part)).startswith("Timm") for part in parts)
    return "timm" if timm and find_spec("timm") is None else None


def _quantisation(config: Mapping[str, Any]) -> str | None:
    given = config.get("quantization_config")
    return str(given.get("quant_method") or "unknown") if isinstance(given, Mapping) else None


def auto_class(base: BaseConfig) -> AutoClass:
    """The transformers class that loads a base with its output head; UserError when there is none.

    The class that config.json names under `architectures` decides: of a multimodal model transformers often
    has a text-only class too, whose tensors are named otherwise than those that are stored and served.
    """
    with hiding():
        # By its name: without torch the package shows a placeholder, though the tables need none.
        known = import_module("transformers.models.auto.modeling_auto")
    if base.missing_package:
        text = f"transformers loads the base model ({base.model_type}) only with {base.missing_package}"
        raise UserError(f"{text}, which the trainer image does not have; choose another base model.")
    candidates: dict[AutoClass, str | None] = {
        "AutoModelForCausalLM": known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(base.model_type),
        "AutoModelForImageTextToText": known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(base.model_type),
    }
    loading = [name for name, model in candidates.items() if model]
    named = [name for name in loading if candidates[name] == base.architecture]
    if not loading:
        own = "" if base.native else ", and code from its repository (auto_map) is not run"
        text = (
            f"The base model ({base.model_type}) cannot be loaded for text: transformers has no class for it"
        )
        raise UserError(f"{text}{own}; choose a chat model that transformers supports.")
    return (named or loading)[0]
