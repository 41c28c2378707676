"""Stopping and saving, agreed upon by all processes after every optimizer step.

A signal reaches the processes at different times, or only those of one pod. If each acted on its own,
some would save step n while others wait for them in step n + 1.
"""

import signal
from collections.abc import Callable
from types import FrameType

import torch
from torch import distributed

CONTINUE, SAVE, STOP = 0, 1, 2


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
    """Asks for a checkpoint once per interval, in seconds of the given clock."""

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        self._interval, self._clock = interval, clock
        self._last = clock()

    def due(self) -> bool:
        """Whether the interval has passed since the last save."""
        return self._clock() - self._last >= self._interval

    def saved(self) -> None:
        """Start the next interval."""
        self._last = self._clock()


def wish(stop: bool, save: bool) -> int:
    """What one process wants to do after this step."""
    return STOP if stop else SAVE if save else CONTINUE


def agree(wanted: int, device: torch.device) -> int:
    """The strongest wish of all processes; collective, so every process must call it in every step."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return wanted
    shared = torch.tensor([wanted], device=device)
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return int(shared.item())
