"""What happens beside the optimizer steps: progress, checkpoints, stopping, divergence."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from finetune_trainer.errors import Diverged
from finetune_trainer.training import signals
from finetune_trainer.training.checkpoints import mark_complete, remove_others

_WINDOW = 20  # optimizer steps that the shown speed is averaged over

# step, total steps, loss, tokens per second, seconds left (unknown numbers are None)
ReportStep = Callable[[int, int, float | None, float | None, float | None], None]


class Speed:
    """Tokens per second and time left, from the last steps of this attempt."""

    def __init__(self, step_tokens: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._step_tokens, self._clock = step_tokens, clock
        self._marks: deque[tuple[int, float]] = deque(maxlen=_WINDOW + 1)

    def mark(self, step: int) -> None:
        """Record that `step` optimizer steps are done now."""
        self._marks.append((step, self._clock()))

    @property
    def tokens_per_second(self) -> float | None:
        """Real tokens per second over the window; None before the second mark."""
        if len(self._marks) < 2:
            return None
        (first, start), (last, end) = self._marks[0], self._marks[-1]
        return self.tokens_between(first, last) / max(end - start, 1e-9)

    def tokens_between(self, first: int, last: int) -> int:
        """Real tokens of the steps after `first` up to and including `last`."""
        return sum(self._step_tokens[first:last])

    @property
    def seconds_left(self) -> float | None:
        """Time for the remaining tokens at that speed."""
        speed = self.tokens_per_second
        return sum(self._step_tokens[self._marks[-1][0] :]) / speed if speed else None


class ProgressCallback(TrainerCallback):
    """Passes each step's loss and speed on."""

    def __init__(self, speed: Speed, report: ReportStep) -> None:
        self._speed, self._report = speed, report

    def on_train_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Start measuring where the run starts or resumes."""
        self._speed.mark(state.global_step)
        self._report(state.global_step, state.max_steps, None, None, None)

    def on_log(
        self, _args: Any, state: TrainerState, _control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        """Report the step that was just logged (every step is)."""
        if "loss" in logs:
            self._speed.mark(state.global_step)
            self._report(
                state.global_step,
                state.max_steps,
                logs["loss"],
                self._speed.tokens_per_second,
                self._speed.seconds_left,
            )


class DivergenceCallback(TrainerCallback):
    """Ends the run when the loss is no longer a number: every process sees the same one, so all end."""

    def on_log(
        self, _args: Any, state: TrainerState, _control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        """Raise Diverged; the newest checkpoint is from before."""
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(logs.get(name, 0.0))]
        if bad:
            raise Diverged(
                f"The {bad[0].replace('grad_norm', 'gradient')} became {logs[bad[0]]} at step "
                f"{state.global_step} of {state.max_steps}; lower training.learningRate."
            )


class CheckpointCallback(TrainerCallback):
    """Saves once per interval and when a process was asked to stop; marks what is complete."""

    def __init__(self, key: str, stop: signals.StopRequest, clock: signals.SaveClock) -> None:
        self._key, self._stop, self._clock = key, stop, clock
        self.stopped = False

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Agree with all processes, then ask the Trainer to save and perhaps to stop."""
        decided = signals.agree(
            signals.wish(self._stop.received, args.process_index == 0 and self._clock.due()), args.device
        )
        if state.global_step < state.max_steps and decided != signals.CONTINUE:
            control.should_save = True
            self.stopped = control.should_training_stop = decided == signals.STOP
        return control

    def on_save(self, args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Write the marker once every process has saved its part, then drop the older checkpoints."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        _barrier()
        if args.process_index == 0:
            mark_complete(checkpoint, self._key)
            remove_others(checkpoint.parent, checkpoint)
        _barrier()  # a process that ended before the marker was written would take the others down
        self._clock.saved()


def _barrier() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
