"""The public server on :8000: what generates, the models, health; everything else is 404."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import aiohttp
from aiohttp import web

from finetune_serving.gateway import errors
from finetune_serving.gateway.body import ENDPOINTS, Ask, parse, read, unrendered
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.errors import Refusal
from finetune_serving.gateway.hold import Hold, deadline, pauses
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Call, Ledger
from finetune_serving.gateway.limits import TokenRates, check_alias, check_pod, check_scoring, take_bytes
from finetune_serving.gateway.peers import HOP_HEADER, Peers
from finetune_serving.gateway.proxy import (
    REQUEST_ID_HEADER,
    SCORING_HEADER,
    VERSION_HEADER,
    EngineGoneError,
    NotBegunError,
    Outgoing,
    engine_headers,
    engine_url,
    forward,
    request_id,
)
from finetune_serving.gateway.routing import model_cards, resolve, steady_draw
from finetune_serving.gateway.shadow import Shadows
from finetune_serving.gateway.streams import cut

logger = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Span = Callable[[web.Request, Call], AbstractContextManager[None]]
CALL = web.RequestKey("call", Call)
HEALTH = "/health"
# After these the connection is of no use: the next request should find another pod, or the body was not read.
_CLOSING = frozenset({408, 413, 503})
_QUICK = aiohttp.ClientTimeout(total=2)


def no_span(_: web.Request, __: Call) -> AbstractContextManager[None]:
    """For a gateway without a collector of spans."""
    return nullcontext()


class Gateway:
    """The handlers of the public API with what they need."""

    def __init__(
        self,
        engine: aiohttp.ClientSession,
        book: Book,
        keys: KeyRing,
        ledger: Ledger,
        peers: Peers | None = None,
        span: Span = no_span,
    ) -> None:
        self.engine = engine
        self.book = book
        self.keys = keys
        self.ledger = ledger
        self.peers = peers
        self.span = span
        self.rates = TokenRates()
        self.hold = Hold(book)
        self.shadows = Shadows(ledger)

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(self._complete_headers)
        for path in ENDPOINTS:
            app.router.add_post(path, self.generate)
        app.router.add_get("/v1/models", self.models, allow_head=False)
        app.router.add_get("/v1/models/{model}", self.model, allow_head=False)
        app.router.add_get(HEALTH, self.health)
        return app

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Choose a version, count, forward."""
        call = request[CALL]
        outgoing = await self._outgoing(request, call)
        try:
            return await self._forward(request, outgoing, call)
        except EngineGoneError:
            call.failed = True
            raise errors.unavailable() from None
        finally:
            if call.failed:
                self.book.trouble.set()
            self.rates.spend(call.key, self.book.limits.tokens_per_minute_per_key, call.spent)

    async def health(self, _: web.Request) -> web.Response:
        """Whether this pod should get requests; for load balancers, so without a key."""
        return web.Response(status=200 if self.book.ready and not self.book.closing else 503)

    async def models(self, request: web.Request) -> web.Response:
        """The base and every alias that the caller may ask."""
        return web.json_response({"object": "list", "data": await self._cards(request[CALL].key)})

    async def model(self, request: web.Request) -> web.Response:
        """One of them."""
        name = request.match_info["model"]
        cards = await self._cards(request[CALL].key)
        card = next((card for card in cards if card["id"] == name), None)
        if card is None:
            raise errors.unknown_model(name)
        return web.json_response(card)

    async def _cards(self, key: str) -> list[dict[str, object]]:
        longest = await _longest(self.engine)
        cards = model_cards(self.book.table, self.book.created, longest)
        return [card for card in cards if self.book.may_call(key, card["id"])]

    async def _outgoing(self, request: web.Request, call: Call) -> Outgoing:
        """The request for the engine, with its version chosen and counted, or for another replica.

        Only what is returned outlives the wait for the answer: the body is in memory once.
        """
        limits = self.book.limits
        check_pod(limits, self.ledger, call)
        self.rates.check(call.key, limits.tokens_per_minute_per_key)
        content = await read(request, limits.max_body_bytes, partial(take_bytes, self.ledger, call))
        try:
            return self._local(content, request, call)
        except NotBegunError:
            if HOP_HEADER in request.headers:
                raise errors.unavailable() from None
        if self.peers is not None:
            return self.peers.outgoing(request.path, content, request.headers, call)
        found = await self.hold.found(call, lambda: self._local(content, request, call), deadline())
        if found is None:
            raise errors.unavailable()
        return found

    def _local(self, content: bytes, request: web.Request, call: Call) -> Outgoing:
        """The request for the engine. Nothing awaits here, so that no version is asked uncounted."""
        ask = parse(ENDPOINTS[request.path], content, self.book.limits)
        version = self._version(ask, request.headers, call)
        self.ledger.enter(call, ask.model, version)
        self._shadow(ask, request, call)
        return self._rendered(ask, version, request, call)

    def _version(self, ask: Ask, headers: Mapping[str, str], call: Call) -> str:
        """What answers a request; NotBegunError when it cannot right now."""
        table = self.book.table
        if table.base == "":
            raise NotBegunError  # no routes yet: whether the name exists is not known
        version = resolve(table, ask.model, self._draw(ask, headers), headers.get(VERSION_HEADER, ""))
        candidate = ask.model in table.candidates
        if not self.book.may_call(call.key, ask.model):
            raise errors.unknown_model(ask.model) if candidate else errors.not_allowed(call.key, ask.model)
        call.alias, call.scores = ask.model, candidate or SCORING_HEADER in headers
        check_alias(self.book.limits, self.ledger, call)
        if call.scores:
            check_scoring(self.book.limits, self.ledger)
        if self.book.can_answer(version):
            return version
        if version in self.book.refused:
            raise errors.refused_candidate(version, self.book.refused[version])
        raise NotBegunError(self.book.unavailable.get(ask.model, "") if self.book.engine_up else "")

    def _draw(self, ask: Ask, headers: Mapping[str, str]) -> float:
        """Where a caller falls among the targets; the same place each time for one that says who it is."""
        route = self.book.table.aliases.get(ask.model)
        named = headers.get(route.sticky_header, "") if route and route.sticky_header else ""
        caller = named or ask.user
        return steady_draw(ask.model, caller) if caller else random.random()  # noqa: S311 - no secret

    def _rendered(self, ask: Ask, version: str, request: web.Request, call: Call) -> Outgoing:
        content = ask.rendered(version, self.book.template_kwargs.get(version, {}))
        headers, url = engine_headers(request.headers, call), engine_url(ask.endpoint.path)
        return Outgoing(self.engine, url, content, headers, ask.adds_usage, ask.own())

    def _shadow(self, ask: Ask, request: web.Request, call: Call) -> None:
        route = self.book.table.aliases.get(ask.model)
        shadow = route.shadow if route else None
        if shadow is None or ask.streams or self.shadows.full or not self.book.can_answer(shadow.version):
            return
        if random.random() * 100 < shadow.percent:  # noqa: S311 - a share of traffic, no secret
            self.shadows.send(ask.model, shadow.version, self._rendered(ask, shadow.version, request, call))

    async def _forward(self, request: web.Request, outgoing: Outgoing, call: Call) -> web.StreamResponse:
        until, waits = deadline(), pauses()
        while True:
            try:
                return await forward(request, outgoing, call, self.ledger)
            except NotBegunError:
                self.book.trouble.set()
                again = await self._again(request, outgoing, call, until, next(waits))
                if again is None:
                    raise errors.unavailable() from None
                outgoing = again
            except EngineGoneError:
                self.book.trouble.set()
                outgoing, until = self._passed(request, outgoing, call), deadline()

    async def _again(
        self, request: web.Request, outgoing: Outgoing, call: Call, until: float, pause: float
    ) -> Outgoing | None:
        """A request that the other side cannot have begun, when there is news; None after `until`.

        Another replica is asked again after `pause` seconds, unless our own engine is back before.
        """
        if outgoing.to is not self.engine:
            soon = min(until, time.monotonic() + pause)
            local = await self.hold.found(call, lambda: self._local(outgoing.content, request, call), soon)
            return local or (outgoing if time.monotonic() < until else None)
        if not await self.hold.news(call, until):
            return None
        if self._others(request) and not self.book.can_answer(call.version):
            return self._passed(request, outgoing, call)
        return await self.hold.found(call, lambda: self._still(outgoing, call.version), until)

    def _passed(self, request: web.Request, outgoing: Outgoing, call: Call) -> Outgoing:
        """A request that our engine refused, or took along when it went, for another replica; only once."""
        others = self._others(request)
        if outgoing.to is not self.engine or others is None:
            raise EngineGoneError
        self.ledger.leave(call)
        content = unrendered(outgoing.content, outgoing.own)
        return others.outgoing(request.path, content, request.headers, call)

    def _others(self, request: web.Request) -> Peers | None:
        """The other replicas, for a request that does not come from one of them."""
        return None if HOP_HEADER in request.headers else self.peers

    def _still(self, outgoing: Outgoing, version: str) -> Outgoing:
        if not self.book.can_answer(version):
            raise NotBegunError
        return outgoing

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count every request, whatever becomes of it, and let in those with a key."""
        if request.path == HEALTH:
            return await handler(request)
        ends = asyncio.timeout(None)
        with self.ledger.call(ends) as call, self.span(request, call):
            request[CALL] = call
            call.request_id = request_id(request.headers)
            try:
                self._recognise(request, call)
                async with ends:
                    response = await handler(request)
            except Exception as error:
                response = self._refused(request, call, error)
            call.status = response.status
            if call.failed or (call.version and call.status >= 500):
                _log(call)
            return response

    def _recognise(self, request: web.Request, call: Call) -> None:
        headers = request.headers
        name = self.keys.name_of(headers.get("Authorization"), headers.get("x-api-key"))
        if name is None:
            raise errors.wrong_key()
        call.key = name

    def _refused(self, request: web.Request, call: Call, error: Exception) -> web.Response:
        """The answer to a request that failed; raises for one whose answer has begun or whose client left."""
        if isinstance(error, ConnectionError):
            raise error
        if isinstance(error, TimeoutError) and call.deadline.expired():
            call.failed = True
            error = errors.unavailable("The version that answers is taken out of service; try again.")
        elif isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
            error = errors.unknown_path(request.method, request.path)
        elif not isinstance(error, Refusal):
            logger.exception("a defect of the gateway", exc_info=error)
            error = errors.broken()
        call.status = error.status
        if call.begun:
            cut(request)
            raise ConnectionResetError
        return error.answer(request.path)

    async def _complete_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """The last word on each answer's head, of streams too: no middleware sees those before they start."""
        call = request.get(CALL)
        if call is not None:
            response.headers[REQUEST_ID_HEADER] = call.request_id
        if self.book.closing or response.status in _CLOSING:
            response.force_close()
            response.headers["Connection"] = "close"


def _log(call: Call) -> None:
    """Only what a version failed: a line per refusal while the engine is down would bury it."""
    fields = {"requestId": call.request_id, "key": call.key, "alias": call.alias, "version": call.version}
    logger.warning("a request failed", extra={"fields": {**fields, "status": call.status}})


async def _longest(engine: aiohttp.ClientSession) -> int | None:
    """The longest sequence (tokens) that the engine takes; None while it does not say."""
    try:
        async with engine.get("/v1/models", timeout=_QUICK) as response:
            return int((await response.json())["data"][0]["max_model_len"])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError):
        return None
