"""How much longer an answer takes with an adapter than without, measured while nobody asks anything.

Once per engine process the base and one adapter give the same few short answers in turn, one at a time.
Neighbours are compared, since what slows a machine down for a while slows both, and the median of their
ratios counts; two halves of them have to say the same, or there is no result. A request of a client, or
work on the engine, ends the measurement at once; it begins anew when there is quiet again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_serving.agent.engine_client import (
    EngineAnswerError,
    EngineClient,
    EngineLostError,
    EngineSlowError,
)
from finetune_serving.gateway.ledger import Ledger

logger = logging.getLogger(__name__)
TOKENS = 32
ROUNDS = (6, 12, 24)  # after so many the halves are compared
TOLERANCE = 0.1
QUIET_SECONDS = 10.0


@dataclass(frozen=True)
class Subject:
    """What can be measured: an engine process that is at rest, its base and one version that it holds."""

    engine_id: str
    base: str
    version: str


@dataclass(frozen=True)
class Slowdown:
    """`ratio`: the time of an answer of `version` over that of the base; `measured_at` in Unix seconds."""

    version: str
    ratio: float
    measured_at: float


def ratio(base: Sequence[float], tuned: Sequence[float]) -> float | None:
    """The median ratio of neighbours; None when every second pair and the others say something else."""
    pairs = [long / short for long, short in zip(tuned, base, strict=True)]
    whole, *halves = (median(part) for part in (pairs, pairs[::2], pairs[1::2]))
    return whole if max(halves) - min(halves) <= TOLERANCE * whole else None


class SlowdownWatch(Collector):
    """Measures, and keeps the last result; `at_rest` tells what can be measured now, None for nothing."""

    def __init__(self, engine: EngineClient, ledger: Ledger, at_rest: Callable[[], Subject | None]) -> None:
        self.found: Slowdown | None = None
        self._engine = engine
        self._ledger = ledger
        self._at_rest = at_rest
        self._done_with = ""

    async def run(self) -> None:
        """Measure each engine process once; until cancelled."""
        while True:
            await asyncio.sleep(QUIET_SECONDS)
            subject = self._at_rest()
            if subject is not None and subject.engine_id != self._done_with and self._quiet():
                await self._try(subject)

    def collect(self) -> Iterator[Metric]:
        """The result and its time; nothing before there is one."""
        if self.found is None:
            return
        name, labels = "finetune_server_lora_slowdown", (self.found.version,)
        text = "Time of a short answer with an adapter over that of the base, one request at a time"
        ratio = GaugeMetricFamily(f"{name}_ratio", text, labels=("version",))
        ratio.add_metric(labels, self.found.ratio)
        text = "When the slowdown was measured (Unix time)"
        moment = GaugeMetricFamily(f"{name}_measured_timestamp_seconds", text, labels=("version",))
        moment.add_metric(labels, self.found.measured_at)
        yield from (ratio, moment)

    def _quiet(self) -> bool:
        return not self._ledger.in_flight and time.monotonic() - self._ledger.last_asked > QUIET_SECONDS

    async def _try(self, subject: Subject) -> None:
        """Measure; an engine that cannot now is asked again, one that refuses what it still holds is not."""
        try:
            found = await self._unless_asked(subject)
        except (EngineLostError, EngineSlowError):
            return
        except Exception as error:
            if self._at_rest() != subject:
                return  # the version was removed between the check and our request
            logger.warning("the slowdown by LoRA cannot be measured: %s", error)
            self._done_with = subject.engine_id
            return
        if found is not None:
            self.found, self._done_with = found, subject.engine_id
            fields = {"version": found.version, "ratio": round(found.ratio, 3)}
            logger.info("the slowdown by LoRA was measured", extra={"fields": fields})

    async def _unless_asked(self, subject: Subject) -> Slowdown | None:
        """The result; None as soon as a client asks. Our request is cancelled then, in the engine too."""
        measuring = asyncio.create_task(self._measured(subject))
        asked = asyncio.create_task(self._ledger.asked())
        try:
            await asyncio.wait({measuring, asked}, return_when=asyncio.FIRST_COMPLETED)
            return None if asked.done() else measuring.result()
        finally:
            measuring.cancel()
            asked.cancel()

    async def _measured(self, subject: Subject) -> Slowdown | None:
        """None when the engine gets other work meanwhile; the first answers of both only warm it up."""
        times: dict[str, list[float]] = {subject.base: [], subject.version: []}
        for done in range(1 + max(ROUNDS)):
            for model, seconds in times.items():
                seconds.append(await self._engine.answer_seconds(model, TOKENS))
                if self._at_rest() != subject:
                    return None
            base, tuned = (seconds[1:] for seconds in times.values())
            if done in ROUNDS and (found := ratio(base, tuned)) is not None:
                return Slowdown(subject.version, found, time.time())
        raise EngineAnswerError(
            f"halves of {max(ROUNDS)} pairs of answers differ by more than {TOLERANCE:.0%}"
        )
