"""Layers are compiled only where a run is long enough, and training does not depend on it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainerControl, TrainerState

from finetune_trainer.data.tokenise import IGNORE_INDEX
from finetune_trainer.training import compiling
from finetune_trainer.training.attention import PACKED, register
from finetune_trainer.training.batching import Collator
from finetune_trainer.training.compiling import CompileCallback, compile_layers, compiling_pays
from finetune_trainer.training.plan import Execution
from finetune_trainer.training.trainer import _projected_sum

LONG = 30 * 60.0
ARGUMENTS = SimpleNamespace(device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("seconds", "execution", "expected"),
    [
        (LONG, Execution(1024), True),
        (LONG, Execution(1024, zero_stage=2), True),
        (LONG, Execution(1024, zero_stage=3), False),
        (LONG, Execution(1024, "Enabled"), True),
        (LONG, Execution(1024, "Selective"), False),
        (10 * 60.0, Execution(1024), False),
    ],
    ids=[
        "a long run",
        "ZeRO-2",
        "ZeRO-3 collects weights inside layers",
        "recomputed layers",
        "selective checkpointing looks inside layers",
        "a run of ten minutes",
    ],
)
def test_compiling_pays_in_long_runs(seconds: float, execution: Execution, expected: bool) -> None:
    assert compiling_pays(seconds, execution) is expected


@pytest.mark.parametrize(
    ("first", "step", "total", "expected"),
    [(100.0, 10.0, 1000, 1), (100.0, 0.1, 1000, 0), (100.0, 400.0, 5, 0)],
    ids=["many slow steps", "only the first step is slow", "slow steps, but few are left"],
)
def test_the_first_steps_decide_once(
    monkeypatch: pytest.MonkeyPatch, first: float, step: float, total: int, expected: int
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(compiling, "compile_layers", lambda model, _: compiled.append(model))
    ends = iter(first + step * number for number in range(total))
    callback = CompileCallback(Execution(1024), Path("cache"), lambda: next(ends))
    for number in range(1, min(total, 10)):
        state = TrainerState(global_step=number, max_steps=total)
        callback.on_step_end(ARGUMENTS, state, TrainerControl(), model=nn.Linear(1, 1))
    assert len(compiled) == expected


def test_a_process_that_would_not_compile_does_when_another_does(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(compiling, "compile_layers", lambda model, _: compiled.append(model))
    monkeypatch.setattr(compiling, "maximum", lambda _value, _device: 1)
    ends = iter(range(4))
    callback = CompileCallback(Execution(1024), Path("cache"), lambda: next(ends))
    for number in range(1, 5):
        state = TrainerState(global_step=number, max_steps=1190)
        callback.on_step_end(ARGUMENTS, state, TrainerControl(), model=nn.Linear(1, 1))
    assert len(compiled) == 1


@pytest.fixture
def model() -> Iterator[LlamaForCausalLM]:
    register(cuda=False)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, attn_implementation=PACKED,
    )  # fmt: skip
    yield LlamaForCausalLM(config)
    torch._dynamo.reset()


def _batches() -> list[dict[str, torch.Tensor]]:
    collate = Collator("packed")
    return [
        collate(
            [{"input_ids": [3] * length, "labels": [IGNORE_INDEX, *range(1, length)]} for length in lengths]
        )
        for lengths in ((7, 4), (5,), (12, 2, 6))
    ]


def _learned(model: LlamaForCausalLM) -> list[torch.Tensor]:
    """Losses of micro-batches of different sizes, and the gradients of their sum."""
    losses = [_projected_sum(model, batch) for batch in _batches()]
    return [*losses, *torch.autograd.grad(torch.stack(losses).sum(), list(model.parameters()))]


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True], ids=["activations kept", "activations recomputed"])
def test_compiled_layers_learn_the_same(
    model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recomputed: bool
) -> None:
    if recomputed:
        model.gradient_checkpointing_enable()
        model.train()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    expected = _learned(model)
    compile_layers(model, tmp_path)
    torch.testing.assert_close(_learned(model), expected, rtol=1e-4, atol=1e-5)
    assert any(tmp_path.rglob("*.cpp")), "nothing was compiled"


@pytest.mark.slow
def test_without_a_compiler_training_goes_on(
    model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    expected = _learned(model)
    compile_layers(model, tmp_path)
    torch.testing.assert_close(_learned(model), expected)
