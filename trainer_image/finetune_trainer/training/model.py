"""Loading a base model for training, and the adapter on it."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import transformers_weight_conversion
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel, set_seed

from finetune_trainer.base.config import BaseConfig, auto_class
from finetune_trainer.base.targets import Shape, adapter_targets, find_decoder
from finetune_trainer.errors import UserError
from finetune_trainer.training.plan import Hardware, LoraPlan, TrainPlan
from finetune_trainer.training.sharding import keep_types_when_sharding, keeps_masters

_log = logging.getLogger(__name__)


def skeleton(folder: Path, base: BaseConfig) -> PreTrainedModel:
    """The base's modules without weights (on torch's meta device); UserError when it cannot be built."""
    with _explained(), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        model: PreTrainedModel = getattr(transformers, auto_class(base)).from_config(config)
    return model


def load_model(
    folder: Path, base: BaseConfig, plan: TrainPlan, hardware: Hardware, attention: str | None
) -> PreTrainedModel | PeftModel:
    """The base with `attention` and the weights to train; UserError when it cannot be loaded.

    For ZeRO stage 3 the SFTConfig must exist already and stay alive: transformers then builds the model under
    zero.Init, where every process keeps its part of each weight only.
    """
    keep_types_when_sharding()
    weights = _weights_type(plan, hardware)
    with _explained():
        model, found = getattr(transformers, auto_class(base)).from_pretrained(
            str(folder),
            dtype=weights,
            attn_implementation=attention,
            quantization_config=_nf4(weights, plan) if plan.lora and plan.lora.quantized_base else None,
            device_map=_device_map(plan, hardware),
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    unusable = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if unusable:
        text = (
            f"The base model's weights lack {', '.join(unusable[:3])} in the size that config.json calls for"
        )
        raise UserError(f"{text}; fetch the whole model of one revision.")
    return add_adapter(model, base, plan.lora, plan.seed) if plan.lora else _train_language_model(model)


def _weights_type(plan: TrainPlan, hardware: Hardware) -> torch.dtype:
    """fp32 where nothing else keeps what small updates add up to."""
    rounded = plan.lora is not None or keeps_masters(True, hardware.precision, plan.execution)
    return torch.bfloat16 if hardware.precision == "bf16" and rounded else torch.float32


def _nf4(weights: torch.dtype, plan: TrainPlan) -> BitsAndBytesConfig:
    """NF4 with double quantisation (Dettmers et al. 2023, QLoRA); ZeRO shards what has the weights' type."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=weights,
        bnb_4bit_quant_storage=weights if plan.execution.zero_stage == 3 else torch.uint8,
    )


def _device_map(plan: TrainPlan, hardware: Hardware) -> dict[str, int] | None:
    """Straight to the process's GPU, without a copy in the host's memory; zero.Init places weights itself."""
    if not hardware.cuda or plan.execution.zero_stage == 3:
        return None
    return {"": int(os.environ.get("LOCAL_RANK", "0"))}


@contextmanager
def _explained() -> Iterator[None]:
    """What transformers refuses will be refused again: the user's error, not one to try three times."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the volume, not the model
        _log.exception("the base model cannot be loaded")
        text = (
            f"transformers cannot load the base model ({type(error).__name__}; the pod's log has the reason)"
        )
        raise UserError(
            f"{text}; check that config.json and weights are complete and fit together."
        ) from error


def _train_language_model(model: PreTrainedModel) -> PreTrainedModel:
    """All weights of the language model; text has no gradient for what sees or hears."""
    model.requires_grad_(False)
    model.get_decoder().requires_grad_(True)
    model.get_output_embeddings().requires_grad_(True)
    return model


def add_adapter(model: PreTrainedModel, base: BaseConfig, lora: LoraPlan, seed: int) -> PeftModel:
    """An fp32 adapter on exactly the modules that the plan counted (base/targets.py)."""
    modules = adaptable_modules(model)
    targets = adapter_targets(modules, base, lora.target_modules)
    set_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        use_rslora=lora.rank_stabilized,
        lora_dropout=0.0,
        target_modules=list(targets.names),
        # The same names stand for other parts of a multimodal model.
        exclude_modules=rf"(?!{re.escape(find_decoder(modules, base).stack)}\.).*",
        bias="none",
        task_type="CAUSAL_LM",
    )
    with names_taken_as_they_are():
        adapted = get_peft_model(model, config)
    if set(adapted.base_model.targeted_module_names) != set(targets.modules):
        raise RuntimeError("PEFT adapted other modules than those chosen")
    return adapted


def adaptable_modules(model: nn.Module) -> dict[str, Shape]:
    """Linear layers and embeddings by name, with their weight's shape before it is sharded or quantised."""
    found: dict[str, Shape] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = (module.out_features, module.in_features)
        elif isinstance(module, nn.Embedding):
            found[name] = (module.num_embeddings, module.embedding_dim)
    return found


@contextmanager
def names_taken_as_they_are() -> Iterator[None]:
    """PEFT takes the names of shared experts for routed ones, and adapts those and their router instead.

    It does so for adapters from transformers 4, where routed experts were modules of those names.
    """
    conversion: Any = transformers_weight_conversion
    original = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = original
