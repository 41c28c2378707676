"""Layers are compiled only where a run is long enough, and training does not depend on it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from finetune_trainer.training.callbacks import Speed
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


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Steps:
    """Runs the callback through steps, as the Trainer does, and counts how often it compiled."""

    total: int
    clock: Clock = field(default_factory=Clock)
    compiled: int = 0

    def __post_init__(self) -> None:
        self.speed = Speed([100] * self.total, self.clock)
        self._callback = CompileCallback(Execution(1024), Path("cache"), self.speed)

    def run(self, *seconds: float, saving: float = 0.0) -> None:
        """Steps of so many seconds, each followed by a save."""
        for number, duration in enumerate(seconds, 1):
            self.clock.now += duration
            self.speed.mark(number)
            state = TrainerState(global_step=number, max_steps=self.total)
            self._callback.on_log(ARGUMENTS, state, TrainerControl(), model=nn.Linear(1, 1))
            if saving:
                self.clock.now += saving
                self.speed.resume(number)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Steps]:
    """Steps of a run of so many."""

    def make(total: int) -> Steps:
        made = Steps(total)

        def count(_model: nn.Module, _cache: Path) -> None:
            made.compiled += 1

        monkeypatch.setattr(compiling, "compile_layers", count)
        return made

    return make


@pytest.mark.parametrize(
    ("seconds", "saving", "total", "expected"),
    [
        ([100.0] + [10.0] * 9, 0.0, 1000, 1),
        ([100.0] + [0.1] * 9, 0.0, 1000, 0),
        ([100.0] + [0.1] * 9, 60.0, 1000, 0),
        ([100.0] + [400.0] * 4, 0.0, 6, 0),
    ],
    ids=[
        "many slow steps",
        "only the first step is slow",
        "fast steps with slow saves between them",
        "slow steps, but few are left",
    ],
)
def test_the_first_steps_decide_once(
    steps: Callable[[int], Steps], seconds: list[float], saving: float, total: int, expected: int
) -> None:
    run = steps(total)
    run.run(*seconds, saving=saving)
    assert run.compiled == expected


def test_the_step_that_compiles_is_not_in_the_speed(steps: Callable[[int], Steps]) -> None:
    run = steps(1000)
    run.run(100.0, 10.0, 10.0, 10.0, 70.0, 10.0)
    assert run.compiled == 1
    assert run.speed.average == 10.0  # tokens per second


def test_a_process_that_would_not_compile_does_when_another_does(
    steps: Callable[[int], Steps], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "maximum", lambda _value, _device: 1)
    run = steps(1190)
    run.run(1.0, 1.0, 1.0, 1.0)
    assert run.compiled == 1


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
