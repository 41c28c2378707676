"""Parts of the training core that need no process group."""

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, lists
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, TrainerControl, TrainerState

from finetune_trainer.data.tokenise import IGNORE_INDEX
from finetune_trainer.errors import Diverged
from finetune_trainer.training.batching import Collator
from finetune_trainer.training.callbacks import CheckpointCallback, DivergenceCallback, Speed
from finetune_trainer.training.checkpoints import Sharding
from finetune_trainer.training.plan import Execution
from finetune_trainer.training.sharding import deepspeed_config
from finetune_trainer.training.signals import CONTINUE, SAVE, STOP, SaveClock, StopRequest, flag
from finetune_trainer.training.trainer import _projected_sum


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64,
    )  # fmt: skip
    return LlamaForCausalLM(config)


ROWS = [
    {"input_ids": [1, 2, 3, 4, 5, 6, 7], "labels": [IGNORE_INDEX] * 5 + [6, 7]},
    {"input_ids": [9, 8, 7, 6], "labels": [IGNORE_INDEX, 8, IGNORE_INDEX, 6]},
]


def test_projecting_only_trained_columns_gives_the_loss_and_gradient_of_all_of_them(
    model: LlamaForCausalLM,
) -> None:
    batch = Collator()(ROWS)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    whole = cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
    expected = torch.autograd.grad(whole, list(model.parameters()))
    ours = _projected_sum(model, batch)
    gradients = torch.autograd.grad(ours, list(model.parameters()))
    torch.testing.assert_close(ours, whole)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_batch_that_trains_nothing_gives_zero_with_a_gradient(model: LlamaForCausalLM) -> None:
    loss = _projected_sum(model, Collator()([]))
    loss.backward()
    assert loss.item() == 0


def test_a_packed_batch_has_the_loss_and_gradient_of_the_padded_one(model: LlamaForCausalLM) -> None:
    padded, packed = Collator()(ROWS), Collator("packed")(ROWS)
    losses = [_projected_sum(model, batch) for batch in (padded, packed)]
    torch.testing.assert_close(losses[0], losses[1])
    one, other = (torch.autograd.grad(loss, list(model.parameters())) for loss in losses)
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("execution", "expected"),
    [
        (Execution(1024), {"stage": 0}),
        (Execution(1024, zero_stage=2), {"stage": 2}),
        (Execution(1024, zero_stage=3), {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}),
        (
            Execution(1024, zero_stage=3, offload="All"),
            {"offload_param": {"device": "cpu", "pin_memory": True}},
        ),
    ],
    ids=["replicas", "ZeRO-2", "ZeRO-3", "offload"],
)
def test_deepspeed_gets_the_planned_stage_and_offload(execution: Execution, expected: dict[str, Any]) -> None:
    zero = deepspeed_config(full=True, precision="bf16", execution=execution)["zero_optimization"]
    assert expected.items() <= zero.items()


@pytest.mark.parametrize(
    ("full", "stage", "rounded"),
    [(True, 2, True), (True, 3, True), (True, 0, False), (False, 0, False), (False, 3, False)],
    ids=["Full, ZeRO-2", "Full, ZeRO-3", "Full without fp32 copies", "LoRA", "LoRA, sharded base"],
)
def test_deepspeed_rounds_only_weights_of_which_it_keeps_fp32_copies(
    full: bool, stage: int, rounded: bool
) -> None:
    config = deepspeed_config(full, "bf16", Execution(1024, zero_stage=stage))
    assert (config["bf16"]["enabled"], config["torch_autocast"]["enabled"]) == (rounded, not rounded)


def test_gradients_are_added_up_and_averaged_in_fp32() -> None:
    config = deepspeed_config(True, "bf16", Execution(1024, zero_stage=2))
    assert config["data_types"]["grad_accum_dtype"] == config["communication_data_type"] == "fp32"


@pytest.mark.parametrize(
    ("stop", "save", "expected"),
    [(False, False, CONTINUE), (False, True, SAVE), (True, False, STOP), (True, True, STOP)],
    ids=["go on", "save", "stop", "stopping saves too"],
)
def test_the_flag_of_a_process_says_what_it_asks_for(stop: bool, save: bool, expected: int) -> None:
    assert flag(stop, save) == expected
    assert max(CONTINUE, SAVE, STOP) == STOP  # all-reduced by maximum


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def arguments(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(process_index=0, device=torch.device("cpu"), output_dir=str(tmp_path))


def saving(stop: StopRequest, clock: Clock, step_tokens: Sequence[int] = ()) -> CheckpointCallback:
    return CheckpointCallback("key", Sharding(1, 0), stop, SaveClock(60, clock), Speed(step_tokens, clock))


def step(callback: CheckpointCallback, arguments: SimpleNamespace, number: int) -> TrainerControl:
    return callback.on_step_end(arguments, TrainerState(global_step=number, max_steps=10), TrainerControl())


def test_a_signal_saves_and_stops_after_the_step(clock: Clock, arguments: SimpleNamespace) -> None:
    stop = StopRequest()
    callback = saving(stop, clock)
    assert not step(callback, arguments, 1).should_save
    stop(15, None)
    control = step(callback, arguments, 2)
    assert control.should_save
    assert control.should_training_stop
    assert callback.stopped


def test_a_signal_in_the_last_step_lets_the_run_end(clock: Clock, arguments: SimpleNamespace) -> None:
    stop = StopRequest()
    stop(15, None)
    callback = saving(stop, clock)
    assert not step(callback, arguments, 10).should_save
    assert not callback.stopped


def test_checkpoints_are_taken_by_the_clock(clock: Clock, arguments: SimpleNamespace) -> None:
    callback = saving(StopRequest(), clock)
    clock.now = 59.0
    assert not step(callback, arguments, 1).should_save
    clock.now = 60.0
    control = step(callback, arguments, 2)
    assert control.should_save
    assert not control.should_training_stop


def test_a_slow_save_makes_the_next_one_wait_longer(clock: Clock, arguments: SimpleNamespace) -> None:
    callback = saving(StopRequest(), clock)
    clock.now = 60.0
    assert step(callback, arguments, 1).should_save
    (Path(arguments.output_dir) / "checkpoint-1").mkdir()
    clock.now = 70.0
    callback.on_save(arguments, TrainerState(global_step=1, max_steps=10), TrainerControl())
    clock.now = 70.0 + 199
    assert not step(callback, arguments, 2).should_save
    clock.now = 70.0 + 200
    assert step(callback, arguments, 3).should_save


@given(durations=lists(floats(0.1, 5000), min_size=1, max_size=30), step_seconds=floats(0.1, 100))
def test_whenever_a_save_is_due_at_most_a_twentieth_of_the_time_went_into_earlier_ones(
    durations: list[float], step_seconds: float
) -> None:
    clock, saved = Clock(), 0.0
    saves = SaveClock(300, clock)
    for duration in durations:
        while not saves.due():
            clock.now += max(step_seconds, 0.01 * clock.now)
        assert saved <= clock.now / 20
        saves.begin()
        clock.now += duration
        saves.end(7)
        saved += duration


@pytest.mark.parametrize(
    "logs", [{"loss": math.nan}, {"loss": 1.0, "grad_norm": math.inf}], ids=["loss", "gradient"]
)
def test_a_loss_that_is_no_number_ends_the_run(logs: dict[str, Any]) -> None:
    with pytest.raises(Diverged, match=r"step 3 of 10; lower training\.learningRate"):
        DivergenceCallback().on_log(None, TrainerState(global_step=3, max_steps=10), TrainerControl(), logs)


def test_speed_counts_real_tokens_and_predicts_the_rest(clock: Clock) -> None:
    speed = Speed([100, 100, 200, 200], clock)
    clock.now = 30.0  # start and first step
    speed.mark(1)
    assert (speed.tokens_per_second, speed.average, speed.seconds_left) == (None, None, None)
    clock.now = 32.0
    speed.mark(2)
    assert (speed.tokens_per_second, speed.seconds_left) == (50.0, 8.0)


def test_speed_leaves_out_what_a_save_takes(clock: Clock, arguments: SimpleNamespace) -> None:
    speed = Speed([100, 100, 200, 200], clock)
    callback = CheckpointCallback("key", Sharding(1, 0), StopRequest(), SaveClock(60, clock), speed)
    for number, now in ((1, 30.0), (2, 31.0)):
        clock.now = now
        speed.mark(number)
    clock.now = 90.0
    (Path(arguments.output_dir) / "checkpoint-2").mkdir()
    callback.on_save(arguments, TrainerState(global_step=2, max_steps=4), TrainerControl())
    clock.now = 93.0
    speed.mark(3)
    assert speed.average == 300 / 4.0


def test_speed_leaves_out_the_step_that_compiles_also_when_a_save_comes_first(clock: Clock) -> None:
    speed = Speed([100, 100, 200, 200, 200], clock)
    for number, now in ((1, 30.0), (2, 31.0)):
        clock.now = now
        speed.mark(number)
    speed.leave_out_next()
    speed.resume(2)  # as after a save
    for number, now in ((3, 90.0), (4, 93.0)):
        clock.now = now
        speed.mark(number)
    assert speed.average == 300 / 4.0
    assert (speed.measured_steps, speed.seconds_left) == (2, 200 / 75.0)


def test_a_resumed_attempt_measures_its_own_steps(clock: Clock) -> None:
    speed = Speed([100, 100, 200, 200], clock)
    speed.mark(3)
    clock.now = 4.0
    speed.mark(4)
    assert speed.average == 50.0
