"""Copies of requests to a version on trial, whose answers nobody gets."""

import asyncio

from finetune_serving.gateway.ledger import Ledger
from finetune_serving.gateway.proxy import EngineGoneError, Outgoing, send, whole

# Copies beyond these are left out: they must not take the engine from those who wait for an answer.
MOST_AT_A_TIME = 4


class Shadows:
    """Copies under way."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, alias: str, version: str, copy: Outgoing) -> None:
        """Start one copy; the caller waits for nothing."""
        task = asyncio.create_task(self._ask(alias, version, copy))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def full(self) -> bool:
        """Whether as many are under way as may be."""
        return len(self._tasks) >= MOST_AT_A_TIME

    async def _ask(self, alias: str, version: str, copy: Outgoing) -> None:
        deadline = asyncio.timeout(None)
        with self._ledger.call(deadline, shadow=True) as call:
            self._ledger.enter(call, alias, version)
            try:
                async with deadline, await send(copy) as upstream:
                    await whole(upstream)
                    call.status = upstream.status
            except (EngineGoneError, TimeoutError):
                call.status = 503
