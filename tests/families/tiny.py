"""Tiny models of a family with random weights: config, weights, tokenizer and chat template in a folder."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
from mistral_common.integrations.chat_templates.chat_templates import generate_chat_template
from mistral_common.tokens.tokenizers.base import TokenizerVersion
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from tests.families.families import CHATML, SIZES, VOCABULARY, Family

_IDS = ("bos_token_id", "eos_token_id")


def build(family: Family, folder: Path) -> Path:
    """Write the base of a family into `folder`, as its publisher would, and return the folder."""
    folder.mkdir(parents=True)
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = getattr(transformers, family.architecture)(config_of(family, tokenizer))
    for weight in model.parameters():
        if not weight.any():  # biases, and factors without which what they scale would not learn
            torch.nn.init.normal_(weight, std=0.1)
    stops = tokenizer.convert_tokens_to_ids([family.eos, *family.stops])
    model.generation_config.eos_token_id = stops if family.stops else stops[0]
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def load(family: Family, folder: Path) -> transformers.PreTrainedModel:
    """The model by its own class, in fp32; every tensor has its place and every place a tensor."""
    kind = getattr(transformers, family.architecture)
    model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert {name: report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")} == {
        "missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(),
    }  # fmt: skip
    return model.eval()


def config_of(family: Family, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The configuration with the ids that this tokenizer has."""
    ids: dict[str, Any] = {name: getattr(tokenizer, name) for name in _IDS}
    if family.text is None:
        return AutoConfig.for_model(family.model_type, **_sized(family.fields, ids))
    parts = {"text_config": _sized(family.text, ids), "vision_config": dict(family.vision or {})}
    return AutoConfig.for_model(family.model_type, **parts, **ids, **_image_ids(tokenizer), **family.fields)


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """One token per byte, and the tokens that the family's template writes."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({character: number for number, character in enumerate(bytes_)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [family.eos, *([family.bos] if family.bos else []), *family.special]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    core.add_tokens([AddedToken(token, normalized=False) for token in family.added])
    if family.bos:
        pair = (family.bos, core.token_to_id(family.bos))
        core.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", pair=f"{family.bos} $A $B", special_tokens=[pair]
        )
    found = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=family.eos, bos_token=family.bos)
    found.chat_template = template_of(family.template or CHATML)
    return found


def template_of(name: str) -> str:
    """The text of a template by its name in the table."""
    source, _, key = name.partition(":")
    if source == "mistral":
        return _mistral_template(key)
    return files("trl.chat_templates").joinpath(f"{key}.jinja").read_text()


def _mistral_template(key: str) -> str:
    """Mistral's own generator; versions up to 3 are those of SentencePiece."""
    version, _, image = key.partition("-")
    return generate_chat_template(
        spm=version in ("v1", "v2", "v3"),
        tokenizer_version=TokenizerVersion(version),
        image_support=bool(image),
        audio_support=False,
        thinking_support=False,
        default_system_prompt=None,
        plain_thinking_support=False,
        use_special_token_variables=True,
        model_settings_fields=None,
        reasoning_effort_values=None,
        reasoning_effort_default=None,
    )


def _sized(fields: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    return {**SIZES, "vocab_size": VOCABULARY, **ids, **fields}


def _image_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """A token that stands for pictures, which no text here holds."""
    unused = VOCABULARY - 1
    names = (
        "image_token_id",
        "image_token_index",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
    )
    return dict.fromkeys(names, unused)
