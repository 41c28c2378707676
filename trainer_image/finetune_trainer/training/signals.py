"""Stopping and saving, agreed upon by all processes after every optimizer step.

A signal reaches the processes at different times, or only those of one pod. If each acted on its own,
some would save step n while others wait for them in step n + 1. So the flags are all-reduced. What all
processes must call at the same place (collective) is here.
"""

import signal
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")
CONTINUE, SAVE, STOP = 0, 1, 2
# Saving for d seconds, then training for at least 20 d, takes less than 5 % of the time.
_TRAINED_PER_SAVED = 20


class StopRequest:
    """Remembers that SIGTERM arrived; installed as its handler."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler: nothing but a flag, as the step in progress must end first."""
        self.received = True

    def install(self) -> None:
        """Take over SIGTERM in this process."""
        signal.signal(signal.SIGTERM, self)


class SaveClock:
    """Says when a checkpoint is due, by the time that the last one took; all times in seconds.

    The first is due after `shortest` like the others, not earlier: before there is work to lose it would only
    cost time, and the pod's grace period follows from the planned size until a save was measured.
    """

    def __init__(self, shortest: float, clock: Callable[[], float]) -> None:
        self._shortest, self._clock = shortest, clock
        self._begun = self._ended = clock()
        self.seconds: float | None = None  # what the last save took
        self.step: int | None = None  # of the newest complete checkpoint

    def due(self) -> bool:
        """Whether training has gone on for long enough since the last save."""
        interval = max(self._shortest, _TRAINED_PER_SAVED * (self.seconds or 0))
        return self._clock() - self._ended >= interval

    def begin(self) -> None:
        """A save starts now."""
        self._begun = self._clock()

    def end(self, step: int) -> None:
        """The save of this step is complete; the next interval starts."""
        self.step = step
        self._ended = self._clock()
        self.seconds = self._ended - self._begun


def flag(stop: bool, save: bool) -> int:
    """What one process asks for after a step; the larger flag includes the smaller one."""
    return STOP if stop else SAVE if save else CONTINUE


def maximum(value: int, device: torch.device) -> int:
    """The largest value of all processes; collective, so every process must call it at the same place."""
    if _alone():
        return value
    shared = torch.tensor([value], device=device)
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return int(shared.item())


def gathered(value: T) -> list[T]:
    """The values of all processes, by rank; collective."""
    if _alone():
        return [value]
    values: list[T] = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Go on when every process is here; collective."""
    if not _alone():
        distributed.barrier()


def run_in_first(work: Callable[[], None], timeout: timedelta) -> None:
    """Do in the first process what takes longer than other collectives may, while all wait; collective.

    The group is made beforehand, so that gloo tells those that wait at once when a process ends.
    """
    if _alone():
        work()
        return
    group = distributed.new_group(backend="gloo", timeout=timeout)
    if distributed.get_rank() == 0:
        work()
    distributed.barrier(group)
    distributed.destroy_process_group(group)


def _alone() -> bool:
    started = distributed.is_available() and distributed.is_initialized()
    return not started or distributed.get_world_size() == 1
