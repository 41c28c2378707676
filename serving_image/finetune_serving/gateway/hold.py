"""Requests that meet an engine which is down: held for a moment, in a bounded crowd."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

from finetune_serving.gateway.book import Book
from finetune_serving.gateway.errors import unavailable
from finetune_serving.gateway.ledger import Call
from finetune_serving.gateway.proxy import NotBegunError

HOLD_SECONDS = 5.0
HOLD_MOST = 512
Found = TypeVar("Found")


def deadline() -> float:
    """Until when a request that starts to wait now is held (monotonic seconds)."""
    return time.monotonic() + HOLD_SECONDS


def pauses() -> Iterator[float]:
    """Seconds between two questions to another replica; each pause is twice the one before."""
    return (0.25 * 2**asked for asked in count())


class Hold:
    """The requests that wait, and the agent's news that they wait for."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.waiting: Counter[str] = Counter()  # by alias

    async def found(self, call: Call, choose: Callable[[], Found], until: float) -> Found | None:
        """What `choose` gives as soon as it raises NotBegunError no more; None after `until`."""
        while True:
            try:
                return choose()
            except NotBegunError as error:
                if error.lasting:
                    raise unavailable(error.lasting) from None
            if not await self.news(call, until):
                return None

    async def news(self, call: Call, until: float) -> bool:
        """Wait until the agent announces a change; False after `until`. Refusal where too many wait."""
        with self._place(call.alias):
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self._book.changed()
            except TimeoutError:
                return False
            return True

    @contextmanager
    def _place(self, alias: str) -> Iterator[None]:
        """An alias gets a place while more are free than it has: one that is stuck takes at most half."""
        free = HOLD_MOST - self.waiting.total()
        if self._book.closing or self.waiting[alias] >= free:
            raise unavailable()
        self.waiting[alias] += 1
        try:
            yield
        finally:
            self.waiting -= Counter((alias,))
