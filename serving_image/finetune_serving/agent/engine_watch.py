"""Whether the engine is up: the one judge of it, for the gateway, the agent and readiness.

An engine whose socket refuses is down at once. One that is slow may only be busy: it is down after three
questions without an answer, provided that it sends nothing to any client meanwhile. One that owes answers
(to clients that left meanwhile as well) and has sent nothing for minutes gets a request for a single token;
left without an answer as well, it hangs, takes no requests any more and is asked to end, so that the kubelet
starts it again.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from finetune_serving.agent.engine_client import (
    EngineAnswerError,
    EngineClient,
    EngineLostError,
    EngineSlowError,
    Identity,
)
from finetune_serving.gateway.ledger import Ledger

logger = logging.getLogger(__name__)
SILENCES = 3
# A whole answer of many tokens comes without a byte before its end, and a full queue lets one wait: for
# five minutes that is normal, and a single token may then take as long again.
HANG_SECONDS = 300.0


@dataclass(frozen=True)
class Verdict:
    """What is held of the engine: the process that answered last, and whether it takes requests."""

    engine_id: str = ""
    slots: int = 0
    up: bool = False
    hung: bool = False
    silences: int = 0
    trouble: str = ""


def after_answer(before: Verdict, identity: Identity) -> Verdict:
    """A process that hangs goes on answering questions about its health."""
    if before.hung and identity.engine_id == before.engine_id:
        return before
    return Verdict(identity.engine_id, identity.slots, up=True)


def after_loss(before: Verdict, trouble: str) -> Verdict:
    """Nothing listens: no request can succeed."""
    return replace(before, up=False, silences=0, trouble=trouble)


def after_silence(before: Verdict, trouble: str, *, heard: bool) -> Verdict:
    """`heard`: the engine sent something to a client while it left us without an answer."""
    if heard:
        return replace(before, silences=0)
    silences = before.silences + 1
    return replace(before, up=before.up and silences < SILENCES, silences=silences, trouble=trouble)


def after_hang(before: Verdict, seconds: float) -> Verdict:
    """Requests are in flight, and nothing comes."""
    return replace(before, up=False, hung=True, trouble=f"the engine has sent nothing for {seconds:.0f} s")


class EngineWatch:
    """Looks at the engine and keeps the verdict; `base` is the name under which it serves its base."""

    def __init__(
        self, engine: EngineClient, ledger: Ledger, base: Callable[[], str], patience: float = HANG_SECONDS
    ) -> None:
        self.verdict = Verdict()
        self._engine = engine
        self._ledger = ledger
        self._base = base
        self._patience = patience

    async def look(self) -> Verdict:
        """Ask the engine for its health once, at most 10 s."""
        asked = time.monotonic()
        try:
            identity = await self._engine.identity()
            verdict = after_answer(self.verdict, identity)  # what is held by now, not when it was asked
        except (EngineLostError, EngineAnswerError, TypeError, ValueError) as error:
            verdict = after_loss(self.verdict, str(error))
        except EngineSlowError as error:
            verdict = after_silence(self.verdict, str(error), heard=self._ledger.last_byte > asked)
        self._set(verdict)
        return verdict

    async def guard(self) -> None:
        """Find out again and again whether the engine hangs; until cancelled."""
        owed_since = None
        while True:
            await asyncio.sleep(self._patience / 10)
            if not self._ledger.owed or self.verdict.hung:
                owed_since = None
                continue
            now = time.monotonic()
            owed_since = now if owed_since is None else owed_since
            if now - max(owed_since, self._ledger.last_byte) > self._patience:
                await self._test()

    async def _test(self) -> None:
        asked, judged = time.monotonic(), self.verdict
        try:
            await self._engine.generates(self._base(), self._patience)
        except EngineLostError:
            return  # `look` sees that too
        except EngineSlowError:
            if self._ledger.last_byte < asked and self.verdict.engine_id == judged.engine_id:
                self._set(after_hang(self.verdict, 2 * self._patience))
                await self._end()
        else:
            self._ledger.last_byte = time.monotonic()

    async def _end(self) -> None:
        logger.error("the engine hangs: asking it to end")
        try:
            await self._engine.exit()
        except (EngineLostError, EngineSlowError) as error:
            logger.warning("the engine did not say that it ends: %s", error)

    def _set(self, verdict: Verdict) -> None:
        if verdict.up != self.verdict.up:
            logger.info("engine is %s", "up" if verdict.up else f"down: {verdict.trouble}")
        self.verdict = verdict
