"""Requests that meet an engine which is down: held for a moment, in a bounded crowd."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from finetune_serving.gateway.book import Book
from finetune_serving.gateway.errors import unavailable
from finetune_serving.gateway.proxy import NotBegunError

HOLD_SECONDS = 5.0
HOLD_MOST = 256
Found = TypeVar("Found")


def deadline() -> float:
    """Until when a request that starts to wait now is held (monotonic seconds)."""
    return time.monotonic() + HOLD_SECONDS


class Hold:
    """The requests that wait, and the agent's news that they wait for."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.waiting = 0

    async def found(self, choose: Callable[[], Found], until: float) -> Found:
        """What `choose` gives as soon as it raises NotBegunError no more; Refusal after `until`."""
        while True:
            try:
                return choose()
            except NotBegunError as error:
                if error.lasting:
                    raise unavailable(error.lasting) from None
                await self.news(until)

    async def news(self, until: float) -> None:
        """Wait until the agent announces a change; Refusal after `until`, and where too many wait."""
        if self._book.closing or self.waiting >= HOLD_MOST:
            raise unavailable()
        self.waiting += 1
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await self._book.changed()
        except TimeoutError:
            raise unavailable() from None
        finally:
            self.waiting -= 1
