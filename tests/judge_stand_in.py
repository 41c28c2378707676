"""An OpenAI-compatible endpoint on a real port that behaves as a judge, or as one that fails, per request."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from aiohttp import web

from finetune_trainer.judging.patience import JudgingTime

_ENCLOSED = re.compile(r"<<<(\w+) ([\w ]+)>>>\n(.*?)\n<<<\1 end of \2>>>", re.DOTALL)
_CRITERION = re.compile(r"^(c\d+): (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Reply:
    """What a request gets: `text` as the answer of a model, or `body` as it is; `hangs` never answers."""

    text: str = ""
    status: int = 200
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    finish: str = "stop"
    hangs: bool = False


Script = Callable[[dict[str, Any]], Reply]


@dataclass
class SkippingClock:
    """Time that nobody has to wait for: it goes on, and jumps to the end of every wait."""

    skipped: float = 0.0

    def now(self) -> float:
        """Seconds since any moment."""
        return monotonic() + self.skipped

    async def sleep(self, seconds: float) -> None:
        """Jump; waits that begin at the same time end at the same time."""
        end = self.now() + seconds
        await asyncio.sleep(0)
        self.skipped += max(0.0, end - self.now())

    def time(self) -> JudgingTime:
        """What a judge reads."""
        return JudgingTime(self.now, self.sleep)


@dataclass
class JudgeStandIn:
    """The endpoint: `script` decides each reply; bodies and headers of all requests are kept.

    `most` is how many requests were under way at once.
    """

    script: Script
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    under_way: int = 0
    most: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        """One chat completion."""
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            return await self._reply(self.script(body))
        finally:
            self.under_way -= 1

    async def _reply(self, reply: Reply) -> web.Response:
        if reply.hangs:
            await asyncio.Event().wait()
        if reply.body is not None or reply.status >= 300:
            return web.Response(text=reply.body or "", status=reply.status, headers=dict(reply.headers))
        choice = {"message": {"role": "assistant", "content": reply.text}, "finish_reason": reply.finish}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return web.json_response({"choices": [choice], "usage": usage})


@asynccontextmanager
async def judge_stand_in(script: Script) -> AsyncIterator[JudgeStandIn]:
    """A running stand-in on a free port of this machine."""
    server = JudgeStandIn(script)
    application = web.Application(client_max_size=16 << 20)
    application.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def texts_of(body: dict[str, Any]) -> dict[str, str]:
    """The texts that a judge's request encloses, by name."""
    return {name: text for _, name, text in _ENCLOSED.findall(body["messages"][-1]["content"])}


def criteria_of(body: dict[str, Any]) -> dict[str, str]:
    """The criteria of a request by their names: those after the last enclosed text."""
    asked = body["messages"][-1]["content"].rpartition(">>>")[2]
    return dict(_CRITERION.findall(asked))


def judges_by_words(body: dict[str, Any]) -> Reply:
    """A judge that is right: a criterion is met, or makes better, when its last word stands in the answer.

    Whatever else it is asked it answers with OK.
    """
    texts, criteria = texts_of(body), criteria_of(body)
    if not texts:
        return Reply("OK")
    if criteria:
        return decided({name: sentence.split()[-1] in texts["answer"] for name, sentence in criteria.items()})
    words = re.findall(r"^- .*?(\w+)$", body["messages"][-1]["content"].rpartition(">>>")[2], re.MULTILINE)
    points = {side: sum(word in texts[f"answer {side}"] for word in words) for side in "AB"}
    return preferring("tie" if points["A"] == points["B"] else max(points, key=lambda side: points[side]))


def decided(met: Mapping[str, bool]) -> Reply:
    """The reply to a question about criteria."""
    entries = {
        name: {"reason": f"it {'does' if yes else 'does not'}", "met": yes} for name, yes in met.items()
    }
    return Reply(json.dumps(entries))


def preferring(winner: str) -> Reply:
    """The reply to a question about two answers."""
    return Reply(json.dumps({"reason": "because", "winner": winner}))


def in_turn(*replies: Reply | Script) -> Script:
    """The replies one after the other; the last one stays."""
    left = list(replies)

    def script(body: dict[str, Any]) -> Reply:
        reply = left.pop(0) if len(left) > 1 else left[0]
        return reply if isinstance(reply, Reply) else reply(body)

    return script
