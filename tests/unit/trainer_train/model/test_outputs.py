"""Whole runs of two steps in this process: what they leave behind can take the base's place."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from finetune_trainer.trained_rows import as_batch, writing_rows
from finetune_trainer.training import cpu_attention
from finetune_trainer.training.core import Outcome, train
from finetune_trainer.training.plan import Execution, Folders, Hardware, LoraPlan, TrainPlan
from finetune_trainer.training.signals import SaveClock, StopRequest
from tests.tiny_models import make_multimodal_model, make_text_model

FULL = Execution(1024, zero_stage=2)
FP32 = Hardware(cuda=False, precision="fp32")


@pytest.fixture
def run(
    tmp_path: Path, learnable_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Outcome]]:
    """Train `base` on 16 rows with batches of 8; the output is in tmp_path/output."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    dataset = tmp_path / "train.arrow"
    with writing_rows(dataset) as write:
        write(as_batch(learnable_rows[:16]))

    def start(base: Path, lora: LoraPlan | None, execution: Execution = FULL, **options: Any) -> Outcome:
        plan = TrainPlan(options.pop("epochs", 1), 1e-2, 8, 17, lora, execution)
        folders = Folders(base, dataset, tmp_path / "checkpoints", tmp_path / "output")
        return train(plan, folders, "key", StopRequest(), lambda *_: None, **options)

    yield start
    unset_hf_deepspeed_config()


def tensors(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return set(file.keys())


def describe(base: Path) -> None:
    """Files as real bases have them: sampling values that transformers refuses to write, processors, a template."""
    (base / "generation_config.json").write_text(
        '{"temperature": 0.6, "top_p": 0.9, "eos_token_id": [255, 1]}'
    )
    (base / "preprocessor_config.json").write_text('{"size":  28}')
    (base / "chat_template.jinja").write_text("{{ messages }}")


@pytest.mark.parametrize(
    "family", ["llama", "llama_tied", "gemma3_text", "qwen3_moe", "phi3", "gemma3", "mistral3"]
)
def test_a_trained_model_has_the_tensors_of_its_base_and_every_other_file_byte_for_byte(
    family: str, tmp_path: Path, run: Callable[..., Outcome]
) -> None:
    make = make_multimodal_model if family in ("gemma3", "mistral3") else make_text_model
    base = make(tmp_path / "base", family)
    describe(base)
    run(base, None)
    output = tmp_path / "output"
    assert tensors(output) == tensors(base)  # a tied head is not stored a second time
    described = [path.name for path in base.iterdir() if path.suffix != ".safetensors"]
    assert {path.name for path in output.iterdir()} == {*described, "model.safetensors"}
    assert all((output / name).read_bytes() == (base / name).read_bytes() for name in described)


def test_a_trained_model_loads_with_the_weights_that_training_ended_with(
    tmp_path: Path, run: Callable[..., Outcome]
) -> None:
    from transformers import AutoModelForCausalLM

    base = make_text_model(tmp_path / "base", "llama_tied")
    run(base, None)
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in (base, tmp_path / "output")
    )  # fmt: skip
    assert after.lm_head.weight is after.model.embed_tokens.weight
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert all(changed)


def test_padding_of_a_tokenizer_beyond_the_vocabulary_is_never_looked_up(
    tmp_path: Path, run: Callable[..., Outcome]
) -> None:
    base = make_text_model(tmp_path / "base", "llama")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(base)
    assert tokenizer.pad_token_id == 256
    assert run(base, LoraPlan(4, 8), Execution(1024)).steps == 2


@pytest.mark.parametrize("quantized", [False, True], ids=["LoRA", "QLoRA"])
def test_an_adapter_loads_on_the_base_that_is_not_quantised(
    quantized: bool, tmp_path: Path, run: Callable[..., Outcome]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_text_model(tmp_path / "base", "llama")
    outcome = run(base, LoraPlan(8, 16, quantized_base=quantized), Execution(1024), epochs=4)
    assert outcome.losses[-1] < outcome.losses[0]
    config = json.loads((tmp_path / "output" / "adapter_config.json").read_text())
    assert not [key for key, value in config.items() if "quant" in key and value]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = model(torch.arange(9)[None]).logits
    tuned = PeftModel.from_pretrained(model, str(tmp_path / "output"))(torch.arange(9)[None]).logits
    assert not torch.allclose(plain, tuned, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["LoRA", "Full"])
@pytest.mark.parametrize("gradient_checkpointing", ["Selective", "Enabled"])
def test_what_is_computed_again_does_not_change_the_losses(
    method: str, gradient_checkpointing: Any, tmp_path: Path, run: Callable[..., Outcome]
) -> None:
    base = make_text_model(tmp_path / "base", "llama")
    lora, stage = (LoraPlan(8, 16), 0) if method == "LoRA" else (None, 2)
    kept = run(base, lora, Execution(1024, zero_stage=stage), hardware=FP32)
    again = run(base, lora, Execution(1024, gradient_checkpointing, stage), hardware=FP32)
    assert again.losses == pytest.approx(kept.losses, abs=1e-6)


@pytest.mark.parametrize(
    ("gradient_checkpointing", "passes"),
    [("Disabled", 2), ("Selective", 2), ("Enabled", 3)],
    ids=["forward and backward", "attention is kept", "attention is computed again"],
)
def test_selective_gradient_checkpointing_does_not_compute_packed_attention_again(
    gradient_checkpointing: Any, passes: int, tmp_path: Path, run: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    called: list[Any] = []
    blocks = cpu_attention._blocks
    monkeypatch.setattr(cpu_attention, "_blocks", lambda *borders: called.append(borders) or blocks(*borders))
    base = make_text_model(tmp_path / "base", "llama")
    outcome = run(base, LoraPlan(8, 16), Execution(1024, gradient_checkpointing), hardware=FP32)
    layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
    assert len(called) == outcome.steps * layers * passes


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2], ids=["no ZeRO", "ZeRO-2"])
def test_bf16_weights_learn_the_same_from_one_micro_batch_and_from_eight(
    stage: int, tmp_path: Path, run: Callable[..., Outcome]
) -> None:
    base, bf16 = make_text_model(tmp_path / "base", "llama"), Hardware(cuda=False, precision="bf16")
    one, eight = (
        run(base, None, Execution(tokens, zero_stage=stage), hardware=bf16, epochs=4).losses for tokens in (1024, 8)
    )  # fmt: skip
    assert one[-1] < one[0] - 1
    assert eight == pytest.approx(one, abs=0.02)


def test_a_mixture_of_experts_keeps_no_router_logits(
    tmp_path: Path, run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.training import core

    seen: list[bool] = []
    save = core.save_output
    monkeypatch.setattr(
        core, "save_output",
        lambda trainer, *rest: (seen.append(trainer.model.config.output_router_logits), save(trainer, *rest)),
    )  # fmt: skip
    run(make_text_model(tmp_path / "base", "qwen3_moe"), LoraPlan(4, 8), Execution(1024))
    assert seen == [False]


def test_the_older_checkpoint_makes_room_for_the_output(
    tmp_path: Path, run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SaveClock, "due", lambda _: True)
    there: list[list[str]] = []

    def look(_: Path) -> None:
        there.append([path.name for path in (tmp_path / "checkpoints").iterdir()])

    run(make_text_model(tmp_path / "base", "llama"), LoraPlan(4, 8), Execution(1024), epochs=2, finish=look)
    assert there == [["checkpoint-3"]]
