"""The judge: asks its endpoint within bounds of time, and remembers what it replied."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from finetune_trainer.contracts import JudgeSpec
from finetune_trainer.errors import StageError
from finetune_trainer.judging.patience import MOST_SECONDS, JudgingTime, Silence, away_seconds
from finetune_trainer.judging.prompts import JudgeQuestion
from finetune_trainer.judging.replies import Replies, reply_key
from finetune_trainer.scoring.endpoint import (
    Completion,
    Endpoint,
    EndpointFailed,
    NoReply,
    Unusable,
    Usage,
)
from finetune_trainer.words import printable

_MOST_TOKENS = 4096  # of a reply, reasoning included
FIRST_WAIT = 1.0  # seconds before the second of three tries
_FIRST_PAUSE, _MOST_PAUSE = 5.0, 60.0  # seconds before three more
_LEAST_SECONDS = 3600.0  # for all questions together
_ANYTHING = {"messages": ({"role": "user", "content": "Answer with OK."},)}  # whether the judge is there
T = TypeVar("T")
_log = logging.getLogger(__name__)


class JudgeUnavailable(StageError):  # noqa: N818
    """The judge replied to nothing at all; another attempt may find it."""

    reason = "Unknown"
    exit_code = 1


class NotJudged(Exception):  # noqa: N818 - of one row; the others go on
    """The judge gave no usable reply; the text says why."""


@dataclass(frozen=True)
class JudgeUse:
    """What judging took: requests with their tokens, and the questions whose replies were known before."""

    usage: Usage = field(default_factory=Usage)
    cached: int = 0

    def __add__(self, other: "JudgeUse") -> "JudgeUse":
        return JudgeUse(self.usage + other.usage, self.cached + other.cached)


class Judge:
    """Asks the model that a job names as judge; an async context manager.

    All questions together have an hour, or the time in which every one could use its whole timeout, but never
    more than `time` has left. Where it is `required`, an attempt that never gets a reply ends.
    """

    def __init__(
        self,
        spec: JudgeSpec,
        key: str | None,
        replies: Replies,
        questions: int,
        time: JudgingTime,
        required: bool,
    ) -> None:
        self._endpoint = Endpoint(spec.url, spec.model, key, spec.request_seconds, FIRST_WAIT)
        self._replies, self._cached, self._time = replies, 0, time
        self._places, self._doubt = asyncio.Semaphore(spec.concurrency), asyncio.Lock()
        self._seconds = max(_LEAST_SECONDS, questions * spec.request_seconds / spec.concurrency)
        self._request_seconds, self._required = spec.request_seconds, required
        self._began = self._heard = self._told = self._deadline = self._away = 0.0
        self._replied, self._outage = False, ""

    async def __aenter__(self) -> "Judge":
        self._began = self._heard = self._time.now()
        seconds = min(self._seconds, self._time.left)
        self._deadline, self._away = self._began + seconds, away_seconds(self._request_seconds, seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._time.spend(self._time.now() - self._began)
        await self._endpoint.__aexit__(kind, error, trace)

    @property
    def use(self) -> JudgeUse:
        """What judging took so far."""
        return JudgeUse(self._endpoint.usage, self._cached)

    async def decide(self, question: JudgeQuestion[T]) -> T:
        """The judge's decision, or the one that it gave before; NotJudged.

        JudgeUnavailable where it is required and has replied to nothing so far, for ten minutes.
        """
        parameters = _parameters(question)
        key = reply_key(self._endpoint.url, self._endpoint.model, question.messages, parameters)
        known = self._replies.get(key)
        if known is not None:
            try:
                decision = question.read(known)
            except Unusable:
                pass  # stored under other rules: asked again
            else:
                self._cached += 1
                return decision
        text, decision = await self._ask(question, parameters)
        self._replies.add(key, text)
        return decision

    def check_present(self) -> None:
        """JudgeUnavailable once the judge has been away for so long that it is not asked any more."""
        if self._outage:
            text = f"Nothing more could be judged at {self._endpoint.url}: {self._outage}"
            raise JudgeUnavailable(f"{text}; see that it runs and can be reached from here.")

    async def _ask(self, question: JudgeQuestion[T], parameters: dict[str, Any]) -> tuple[str, T]:
        """The reply and the decision; while a question waits for a judge that is away, others are asked."""

        def read(answer: Completion) -> tuple[str, T]:
            if answer.finish == "length":
                raise Unusable(f"its reply was cut off after {answer.output_tokens} tokens")
            return answer.text, question.read(answer.text)

        request, pause = {"messages": question.messages}, _FIRST_PAUSE
        first: float | None = None
        while True:
            async with self._places:
                last = self._time.now()
                first = last if first is None else first  # not while it stood in line
                try:
                    return await self._once(request, parameters, read)
                except NoReply as error:
                    silence = Silence(first, last, self._heard, self._time.now(), self._away)
                    await self._check_silence(silence, error)
            await self._time.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE)

    async def _once(
        self, request: dict[str, Any], parameters: dict[str, Any], read: Callable[[Completion], T]
    ) -> T:
        """What `read` makes of the reply; NoReply, or NotJudged for any other reason."""
        left = self._deadline - self._time.now()
        if self._outage or left <= 0:
            raise NotJudged(self._outage or self._too_long())
        try:
            async with asyncio.timeout(left):
                found = await self._endpoint.ask(request, parameters, read)
        except NoReply:
            raise
        except TimeoutError as error:
            raise NotJudged(self._too_long()) from error
        except EndpointFailed as error:
            self._replied, self._heard = True, self._time.now()
            raise NotJudged(f"the judge did not judge it: {error}") from error
        self._replied, self._heard = True, self._time.now()
        return found

    async def _check_silence(self, silence: Silence, error: NoReply) -> None:
        """NotJudged where the question waits no longer; JudgeUnavailable as `_check_outage`."""
        if silence.concerns_one_question:
            raise NotJudged(f"the judge did not judge it: {error}") from error
        if silence.is_an_outage:
            await self._check_outage(silence, error)
        elif self._told != self._heard:  # once for each silence
            self._told = self._heard
            why, minutes = printable(str(error)), self._away / 60
            _log.warning("the judge gives no reply (%s); it is waited for up to %.0f min", why, minutes)

    async def _check_outage(self, silence: Silence, error: NoReply) -> None:
        """NotJudged where the judge replies to nothing, JudgeUnavailable where it is required and never did.

        Where it does reply, the question is asked again, and left ungraded alone if it still gets no reply.
        """
        async with self._doubt:  # whoever waited here takes what was found for the first
            if not self._outage:
                if self._heard > silence.heard or await self._answers_anything():
                    return
                minutes, why = (silence.now - silence.heard) / 60, printable(str(error))
                self._outage = f"the judge gave no reply for {minutes:.0f} min ({why})"
        if self._required and not self._replied:
            self.check_present()
        raise NotJudged(self._outage) from error

    async def _answers_anything(self) -> bool:
        """Whether the judge replies to a question that concerns no row, within the time of one request."""
        try:
            async with asyncio.timeout(self._request_seconds):
                await self._once(_ANYTHING, {"max_tokens": _MOST_TOKENS}, lambda answer: answer)
        except (NoReply, TimeoutError):
            return False
        return True

    def _too_long(self) -> str:
        seconds = self._seconds if self._seconds <= self._time.left else MOST_SECONDS
        return f"the judge took more than the {seconds / 60:.0f} min that all rows have together"


def _parameters(question: JudgeQuestion[Any]) -> dict[str, Any]:
    """Greedy and reproducible where the endpoint can, and bound to the shape of the reply."""
    form = {"name": "judgement", "strict": True, "schema": dict(question.schema)}
    return {
        "temperature": 0,
        "seed": 0,
        "max_tokens": _MOST_TOKENS,
        "response_format": {"type": "json_schema", "json_schema": form},
    }
