"""What a finished run leaves behind: an adapter, or a model that takes its base's place."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig

from finetune_trainer.base.files import DESCRIPTION_FILES
from finetune_trainer.training.trainer import TokenMeanTrainer


def save_output(
    trainer: TokenMeanTrainer, base: Path, output: Path, finish: Callable[[Path], None] = lambda _: None
) -> None:
    """Write the whole folder beside its place, then move it there (called by every process, one writes).

    `finish` may complete the folder before it appears under its name.
    """
    partial = output.with_name(f".{output.name}.partial")
    if trainer.args.should_save:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    if isinstance(trainer.model, PeftModel):
        _save_adapter(trainer, partial)
    else:
        _save_model(trainer, base, partial)
    if trainer.args.should_save:
        finish(partial)
        for path in partial.rglob("*"):
            # safetensors makes files private; the engine's container may run as another user of the group.
            path.chmod(0o775 if path.is_dir() else 0o664)
        shutil.rmtree(output, ignore_errors=True)
        partial.replace(output)
    trainer.accelerator.wait_for_everyone()


def _save_adapter(trainer: TokenMeanTrainer, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors."""
    weights = _gathered_adapter(trainer.model)
    if trainer.args.should_save:
        # Whether embeddings were trained is known: looking for it would ask the Hub.
        trainer.model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's template without content


def _gathered_adapter(model: PeftModel) -> dict[str, torch.Tensor]:
    """The trained weights on the CPU; where ZeRO stage 3 shards them, put together (in every process)."""
    from deepspeed.runtime.zero import GatheredParameters

    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with GatheredParameters([weight for weight in trained.values() if hasattr(weight, "ds_id")]):
        return {name: weight.detach().cpu().clone() for name, weight in trained.items()}


def _save_model(trainer: TokenMeanTrainer, base: Path, folder: Path) -> None:
    """Write the weights, and everything else as the base has it, byte for byte: only weights were trained."""
    weights = _gathered_model(trainer)
    if not trainer.args.should_save:
        return
    # The model's own was read from the base, and transformers does not write everything that it reads.
    trainer.model.generation_config = GenerationConfig()
    trainer.model.save_pretrained(str(folder), state_dict=weights)
    for name in DESCRIPTION_FILES:
        (folder / name).unlink(missing_ok=True)
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)


def _gathered_model(trainer: TokenMeanTrainer) -> dict[str, torch.Tensor] | None:
    """All weights in the process that saves, if ZeRO stage 3 shards them; None where the model holds them.

    Gathered weights are copies, so those that are tied must be left out here to be stored once.
    """
    if not trainer.deepspeed.zero_optimization_partition_weights():
        return None
    weights: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.deepspeed) or {}
    return {
        name: weight for name, weight in weights.items() if name not in trainer.model.all_tied_weights_keys
    }
