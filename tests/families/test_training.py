"""Two steps of each method on each family: what is trained is what was planned, and what is saved loads."""

import json

import pytest
import torch
from safetensors.torch import load_file

from finetune_trainer.base.config import read_base_config
from finetune_trainer.base.shape import adapter_parameters, read_shape
from finetune_trainer.training.model import names_taken_as_they_are
from tests.families.families import Family
from tests.families.stages import RANK, Record, Refused, Trained, works
from tests.families.tiny import load

pytestmark = pytest.mark.families

# The names by which transformers and publishers call what is beside the language model.
_OTHERS = ("vision", "visual", "audio", "projector", "embed_vision", "embed_audio")


def test_the_adapter_has_the_planned_weights_on_the_language_model_alone(
    family: Family, lora: Trained | Refused, record_property: Record
) -> None:
    if not works(lora, family.refused.get("LoRA"), record_property) or isinstance(lora, Refused):
        return
    weights = load_file(lora.output / "adapter_model.safetensors")
    planned = adapter_parameters(read_shape(lora.base), RANK)
    assert sum(tensor.numel() for tensor in weights.values()) == planned
    assert [name for name in weights if any(part in name for part in _OTHERS)] == []
    assert [name for name, tensor in weights.items() if "lora_B" in name and not tensor.any()] == []
    record_property("note", f"{planned:,} planned and trained")


def test_the_saved_adapter_loads_onto_the_base_and_changes_it(
    family: Family, lora: Trained | Refused
) -> None:
    if isinstance(lora, Refused):
        pytest.skip("refused in prepare")
    from peft import PeftModel

    model = load(family, lora.base)
    tokens = torch.arange(2, 40).unsqueeze(0)
    before = model(input_ids=tokens).logits
    with names_taken_as_they_are():
        tuned = PeftModel.from_pretrained(model, lora.output)
    stored = load_file(lora.output / "adapter_model.safetensors")
    loaded = sum(parameter.numel() for name, parameter in tuned.named_parameters() if "lora_" in name)
    assert loaded == sum(tensor.numel() for tensor in stored.values())
    assert not torch.equal(tuned(input_ids=tokens).logits, before)


def test_the_saved_model_has_the_tensors_of_its_base_and_leaves_the_other_parts_alone(
    family: Family, full: Trained | Refused, record_property: Record
) -> None:
    if not works(full, family.refused.get("Full"), record_property) or isinstance(full, Refused):
        return
    base, tuned = (load_file(folder / "model.safetensors") for folder in (full.base, full.output))
    assert set(tuned) == set(base)
    others = {name for name in base if any(part in name for part in _OTHERS)}
    changed = {name for name in base if not torch.equal(base[name].float(), tuned[name].float())}
    assert changed & others == set()
    assert changed != set()
    assert bool(others) == (family.vision is not None)
    load(family, full.output)


def test_the_saved_model_keeps_the_files_of_its_base(family: Family, full: Trained | Refused) -> None:
    if isinstance(full, Refused):
        pytest.skip("refused in prepare")
    for path in full.base.iterdir():
        if path.name not in ("model.safetensors", "config.json"):
            assert (full.output / path.name).read_bytes() == path.read_bytes(), path.name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (full.base, full.output)]
    assert configs[1]["architectures"] == configs[0]["architectures"]
    assert read_base_config(full.output) == read_base_config(full.base)
