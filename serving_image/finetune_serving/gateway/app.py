"""The public server on :8000: four OpenAI routes, everything else is 404."""

import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import JsonValue

from finetune_serving.gateway import errors
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Ledger
from finetune_serving.gateway.proxy import EngineGoneError, forward, gone
from finetune_serving.gateway.routing import model_cards, resolve

_CHAT = "/v1/chat/completions"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Gateway:
    """The handlers of the public API with what they need."""

    engine: aiohttp.ClientSession
    book: Book
    keys: KeyRing
    ledger: Ledger
    max_body_bytes: int

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=self.max_body_bytes)
        app.router.add_post(_CHAT, self.generate)
        app.router.add_post("/v1/completions", self.generate)
        app.router.add_get("/v1/models", self.models, allow_head=False)
        app.router.add_get("/v1/models/{model}", self.model, allow_head=False)
        return app

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Rewrite the alias to a version, count, forward."""
        body = _parse(await request.read())
        if isinstance(body, str):
            return errors.bad_request(body)
        if (wrong := _wrong(request.path, body)) is not None:
            return wrong
        model = str(body["model"])
        # From here to `track` nothing awaits: a version that is being unloaded is never chosen uncounted.
        version = resolve(self.book.table, model, random.random())  # noqa: S311 - a share of traffic, no secret
        if version is None:
            starting = self.book.table.base == ""  # no routes yet: whether the name exists is not known
            return gone() if starting else errors.unknown_model(model)
        if not self.book.can_answer(version):
            reason = self.book.unavailable.get(model) if self.book.engine_up else None
            return errors.unavailable(reason) if reason else gone()
        if request.path == _CHAT:
            body = with_template_kwargs(body, self.book.template_kwargs.get(version, {}))
        with self.ledger.track(version) as call:
            try:
                return await forward(request, self.engine, body, call)
            except EngineGoneError:
                call.status, call.failed = 503, True
                self.book.trouble.set()
                return gone()

    async def models(self, _: web.Request) -> web.Response:
        """The base and every alias."""
        return web.json_response({"object": "list", "data": model_cards(self.book.table, self.book.created)})

    async def model(self, request: web.Request) -> web.Response:
        """One of them."""
        name = request.match_info["model"]
        cards = model_cards(self.book.table, self.book.created)
        card = next((card for card in cards if card["id"] == name), None)
        return errors.unknown_model(name) if card is None else web.json_response(card)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.keys.accepts(request.headers.get("Authorization")):
            response = await self._answer(request, handler)
        else:
            response = errors.wrong_key()
        if self.book.closing and not response.prepared:
            response.force_close()  # the client's next request should find another replica
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return errors.too_large(self.max_body_bytes)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return errors.unknown_path(request.method, request.path)


def _parse(content: bytes) -> dict[str, Any] | str:
    """The request's JSON object, or a sentence on what is wrong with it."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"The request body is not valid JSON ({error}); send a JSON object."
    return body if isinstance(body, dict) else "The request body must be a JSON object."


def _wrong(path: str, body: dict[str, Any]) -> web.Response | None:
    """The refusal of a request that no version may see."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return errors.bad_request("Set `model` to a name from GET /v1/models.", param="model")
    if path == _CHAT and not isinstance(body.get("chat_template_kwargs"), dict | None):
        text = "`chat_template_kwargs` must be a JSON object; correct it or leave it out."
        return errors.bad_request(text, param="chat_template_kwargs")
    lethal = _lethal(body)
    return errors.bad_request(lethal) if lethal else None


def with_template_kwargs(body: dict[str, Any], trained: Mapping[str, JsonValue]) -> dict[str, Any]:
    """A chat request that renders prompts as in training, save for what the client asks for itself."""
    if not trained:
        return body
    return {**body, "chat_template_kwargs": {**trained, **(body.get("chat_template_kwargs") or {})}}


def _lethal(body: dict[str, Any]) -> str:
    """Why a request would take the engine down for everyone; empty for all others.

    vLLM 0.32 dies when it computes log-probabilities of a prompt beside requests of an adapter
    (vllm#16668); `echo` with `logprobs` asks for the same.
    """
    if body.get("prompt_logprobs") is not None:
        return "`prompt_logprobs` is not available on a server with adapters; leave it out."
    if body.get("echo") and body.get("logprobs") is not None:
        return "`echo` together with `logprobs` is not available on a server with adapters; leave one out."
    return ""
