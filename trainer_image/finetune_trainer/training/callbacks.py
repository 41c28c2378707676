"""What happens beside the optimizer steps: progress, checkpoints, stopping, divergence."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from transformers import TrainerCallback, TrainerControl, TrainerState

from finetune_trainer.errors import Diverged
from finetune_trainer.training import signals
from finetune_trainer.training.checkpoints import (
    File,
    Sharding,
    file_sizes,
    make_room,
    mark_complete,
    share,
    write_to_disk,
)
from finetune_trainer.training.patience import Patience
from finetune_trainer.training.resuming import remove_universal, separate_step_counts

T = TypeVar("T")
_WINDOW = 20  # optimizer steps that the shown speed is averaged over
_SETTLED = 5  # measured steps: the one that compiles the layers (compiling.py) is over by then


@dataclass(frozen=True)
class StepReport:
    """What a process does now, and how far the run is; what is not known, or as before, is None.

    `message` says what it is doing, and a report that does not follow `within` so many seconds means that it
    hangs. `checkpoint_seconds` is what the last save took, `checkpoint_step` the step of the newest complete
    checkpoint, `step_seconds` the median of the last steps; `seconds_left` leaves saving out.
    """

    message: str
    within: float
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    checkpoint_seconds: float | None = None
    step_seconds: float | None = None
    checkpoint_step: int | None = None


ReportStep = Callable[[StepReport], None]


class Speed:
    """Tokens per second and time left, from the steps of this attempt.

    The first step is left out, since it holds what happens once (DeepSpeed's start, Triton's kernels), and so
    are the step in which layers are compiled and the time spent on saving.
    """

    def __init__(self, step_tokens: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._step_tokens, self._clock = step_tokens, clock
        self._window: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self._tokens, self._seconds = 0, 0.0
        self._step, self._since = 0, clock()
        self._left_out = True

    def mark(self, step: int) -> None:
        """Record that `step` optimizer steps are done now."""
        tokens, seconds = self.tokens_between(self._step, step), self._clock() - self._since
        if not self._left_out:
            self._window.append((tokens, seconds))
            self._tokens, self._seconds = self._tokens + tokens, self._seconds + seconds
        self._left_out = False
        self.resume(step)

    def leave_out_next(self) -> None:
        """Do not measure the step that is marked next."""
        self._left_out = True

    def resume(self, step: int) -> None:
        """Measure from now on, without what happened since the last mark."""
        self._step, self._since = step, self._clock()

    @property
    def measured_steps(self) -> int:
        """The steps that the window holds."""
        return len(self._window)

    @property
    def step_seconds(self) -> float | None:
        """The median time of a step in the window; None before the second mark."""
        return median(seconds for _, seconds in self._window) if self._window else None

    @property
    def largest_step(self) -> int:
        """The most real tokens that a step of the run has."""
        return max(self._step_tokens, default=0)

    @property
    def tokens_per_second(self) -> float | None:
        """Real tokens per second over the window; None before the second mark."""
        return _per_second(
            sum(tokens for tokens, _ in self._window), sum(seconds for _, seconds in self._window)
        )

    @property
    def average(self) -> float | None:
        """Real tokens per second over all measured steps."""
        return _per_second(self._tokens, self._seconds)

    def tokens_between(self, first: int, last: int) -> int:
        """Real tokens of the steps after `first` up to and including `last`."""
        return sum(self._step_tokens[first:last])

    @property
    def seconds_left(self) -> float | None:
        """Time for the remaining tokens at that speed."""
        speed = self.tokens_per_second
        return sum(self._step_tokens[self._step :]) / speed if speed else None


def _per_second(tokens: int, seconds: float) -> float | None:
    return tokens / max(seconds, 1e-9) if tokens else None


class ProgressCallback(TrainerCallback):
    """Passes each step's loss and speed on, what the last save took, and how long the next step may take."""

    def __init__(
        self, speed: Speed, clock: signals.SaveClock, patience: Patience, report: ReportStep, message: str
    ) -> None:
        self._speed, self._clock, self._patience = speed, clock, patience
        self._report, self._message = report, message

    def on_train_begin(self, _args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Tell where the run starts or resumes."""
        resumed = state.global_step or None
        self._report(
            StepReport(
                self._message,
                self._within(),
                state.global_step,
                state.max_steps,
                checkpoint_step=resumed,
            )
        )

    def on_log(
        self, _args: Any, state: TrainerState, _control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        """Report the step that was just logged (every step is)."""
        if "loss" not in logs:
            return
        self._speed.mark(state.global_step)
        report = StepReport(
            self._message,
            self._within(),
            state.global_step,
            state.max_steps,
            logs["loss"],
            self._speed.tokens_per_second,
            self._speed.seconds_left,
            self._clock.seconds,
            self._speed.step_seconds,
            self._clock.step,
        )
        self._report(report)

    def _within(self) -> float:
        usual = self._speed.step_seconds if self._speed.measured_steps >= _SETTLED else None
        return self._patience.step(usual, self._clock.seconds, self._speed.largest_step)


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
    """Saves when the clock says so and when a process was asked to stop; marks what is complete.

    Each process brings a share of the files to the disk and reads them for the marker.
    """

    def __init__(
        self,
        key: str,
        sharding: Sharding,
        stop: signals.StopRequest,
        clock: signals.SaveClock,
        speed: Speed,
    ) -> None:
        self._key, self._sharding = key, sharding
        self._stop, self._clock, self._speed = stop, clock, speed
        self.stopped = False

    def on_train_begin(
        self, args: Any, state: TrainerState, _control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        """Correct what DeepSpeed restored, and drop the universal form, which every process has read now."""
        if self._sharding.zero_stage == 3:
            separate_step_counts(optimizer)
        signals.wait_for_all()
        if args.process_index == 0:
            remove_universal(_checkpoint(args, state))

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Agree with all processes, then ask the Trainer to save and perhaps to stop."""
        asked = signals.flag(self._stop.received, args.process_index == 0 and self._clock.due())
        decided = signals.maximum(asked, args.device)
        if state.global_step < state.max_steps and decided != signals.CONTINUE:
            self._clock.begin()
            if args.process_index == 0:
                make_room(Path(args.output_dir), self._key)
            control.should_save = True
            self.stopped = control.should_training_stop = decided == signals.STOP
        return control

    def on_save(self, args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Write the marker once every process has saved its part."""
        signals.wait_for_all()
        checkpoint = _checkpoint(args, state)
        files = _written(checkpoint, args.process_index, self._sharding.processes)
        if args.process_index == 0:
            mark_complete(checkpoint, self._key, self._sharding, files)
        signals.wait_for_all()  # who ended before the marker was written would take the others down
        self._clock.end(state.global_step)
        self._speed.resume(state.global_step)

    def on_train_end(self, args: Any, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Delete the older checkpoint after the last step: the output takes its place."""
        if args.process_index == 0 and not self.stopped:
            make_room(Path(args.output_dir), self._key)


def _checkpoint(args: Any, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _written(checkpoint: Path, rank: int, processes: int) -> dict[str, File]:
    """All files of a checkpoint, of which each process writes and reads a share; collective.

    On a network volume one node may not see yet what another has just written, so all are asked.
    """
    sizes = _joined(signals.gathered(file_sizes(checkpoint)))
    return _joined(signals.gathered(write_to_disk(checkpoint, share(sizes, rank, processes))))


def _joined(parts: list[dict[str, T]]) -> dict[str, T]:
    return {name: value for part in parts for name, value in part.items()}
