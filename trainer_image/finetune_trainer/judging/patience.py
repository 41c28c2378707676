"""How long a judge is waited for: the clock, the time that judging may take, and what a silence means."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from finetune_trainer.scoring.endpoint import TRIES

MOST_SECONDS = 4 * 3600.0  # for all judging of a stage, whatever its number of rows
_AWAY_SECONDS = 600.0  # without a reply to anything, after which nothing more is asked
_ALONE_SECONDS = 60.0  # without a reply to one question, while others get theirs


def away_seconds(request_seconds: float, all_seconds: float) -> float:
    """How long a judge may reply to nothing: ten minutes, or while it may hang at two questions.

    But at most half of the seconds that all questions have: they must not end before that is noticed.
    """
    return min(max(_AWAY_SECONDS, 2 * TRIES * request_seconds), all_seconds / 2)


class JudgingTime:
    """The clock of judging, and what is left of the seconds that all judging of a stage may take."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.now, self.sleep, self.left = now, sleep, MOST_SECONDS

    def spend(self, seconds: float) -> None:
        """Take what some of the judging took from what is left."""
        self.left = max(0.0, self.left - seconds)


@dataclass(frozen=True)
class Silence:
    """A question that got no reply by `now`, in seconds of one clock.

    `first` and `last` are when it was asked first and last, `heard` when the judge replied to any question
    last, or began to be asked; for `most` it may reply to none.
    """

    first: float
    last: float
    heard: float
    now: float
    most: float

    @property
    def concerns_one_question(self) -> bool:
        """Whether the judge replies to others, and has had time for this one."""
        return self.first < self.heard < self.last and self.now - self.first >= _ALONE_SECONDS

    @property
    def is_an_outage(self) -> bool:
        """Whether nobody has heard of the judge for so long that it may be away for good."""
        return self.now - self.heard >= self.most
