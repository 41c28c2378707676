"""The judge: asks its endpoint within bounds of time, and remembers what it replied."""

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from finetune_trainer.contracts import JudgeSpec
from finetune_trainer.judging.prompts import JudgeQuestion
from finetune_trainer.judging.replies import Replies, reply_key
from finetune_trainer.scoring.endpoint import (
    Completion,
    Endpoint,
    EndpointFailed,
    RequestRefused,
    Unusable,
    Usage,
)

_MOST_TOKENS = 4096  # of a reply, reasoning included
FIRST_WAIT = 1.0  # seconds before the second try
_LEAST_SECONDS = 3600.0  # for all questions of a stage together
_FAILURES = 20  # questions in a row without any reply, after which no other is asked
T = TypeVar("T")


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

    All questions together have an hour, or the time in which every one could use its whole timeout.
    """

    def __init__(self, spec: JudgeSpec, key: str | None, replies: Replies, questions: int) -> None:
        self._endpoint = Endpoint(spec.url, spec.model, key, spec.request_seconds, FIRST_WAIT)
        self._replies, self._cached, self._failures = replies, 0, 0
        self._places = asyncio.Semaphore(spec.concurrency)
        self._seconds = max(_LEAST_SECONDS, questions * spec.request_seconds / spec.concurrency)
        self._deadline = float("inf")

    async def __aenter__(self) -> "Judge":
        self._deadline = asyncio.get_running_loop().time() + self._seconds
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._endpoint.__aexit__(kind, error, trace)

    @property
    def use(self) -> JudgeUse:
        """What judging took so far."""
        return JudgeUse(self._endpoint.usage, self._cached)

    async def decide(self, question: JudgeQuestion[T]) -> T:
        """The judge's decision, or the one that it gave before; NotJudged."""
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

    async def _ask(self, question: JudgeQuestion[T], parameters: dict[str, Any]) -> tuple[str, T]:
        def read(answer: Completion) -> tuple[str, T]:
            if answer.finish == "length":
                raise Unusable(f"its reply was cut off after {answer.output_tokens} tokens")
            return answer.text, question.read(answer.text)

        async with self._places:
            self._check_bounds()
            try:
                async with asyncio.timeout_at(self._deadline):
                    found = await self._endpoint.ask({"messages": question.messages}, parameters, read)
            except TimeoutError as error:
                raise NotJudged(self._too_long()) from error
            except EndpointFailed as error:
                self._failures += not isinstance(error, RequestRefused)
                raise NotJudged(f"the judge did not judge it: {error}") from error
        self._failures = 0
        return found

    def _check_bounds(self) -> None:
        if asyncio.get_running_loop().time() >= self._deadline:
            raise NotJudged(self._too_long())
        if self._failures >= _FAILURES:
            raise NotJudged(f"the judge was not asked any more after {_FAILURES} failures in a row")

    def _too_long(self) -> str:
        return f"the judge took more than the {self._seconds / 60:.0f} min that all rows have together"


def _parameters(question: JudgeQuestion[Any]) -> dict[str, Any]:
    """Greedy and reproducible where the endpoint can, and bound to the shape of the reply."""
    form = {"name": "judgement", "strict": True, "schema": dict(question.schema)}
    return {
        "temperature": 0,
        "seed": 0,
        "max_tokens": _MOST_TOKENS,
        "response_format": {"type": "json_schema", "json_schema": form},
    }
