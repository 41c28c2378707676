"""A shared ModelServer as the engine that scores: its users come first, and the candidate is loaded for us.

The gateway in front of it passes on what generates and nothing else: what an engine beside the scorer is
asked for on routes of its own is read out of answers here.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from finetune_trainer.contracts import EngineSpec, ServerSpec
from finetune_trainer.errors import UserError
from finetune_trainer.scoring.client import (
    GREEDY,
    TIMEOUT,
    Engine,
    EngineUnavailable,
    Prompt,
    Refused,
    error_text,
    on_socket,
    socket_path,
)

Offer = Callable[[], str]
"""Publishes the adapter for the server, says so to the operator, and returns its digest."""

_CHAT = "/v1/chat/completions"
_MARK = {"x-finetune-scoring": "1"}  # the gateway lets few of these in, so that users come first
_BUSY_SECONDS = 3600.0  # how long a server may have no room for one question
_HELD_SECONDS = 86400.0  # a full server may have a slot when an alias leaves it
_LOOK_SECONDS = 5.0
_OF_THE_REQUEST = frozenset({400, 413, 422})  # what another question may not meet
_FINAL = _OF_THE_REQUEST | {401, 403, 409}


def engine_for(spec: EngineSpec | None, offer: Offer | None = None) -> Engine:
    """What scores: the ModelServer that the job names, else the engine beside this stage."""
    if spec is None or spec.server is None:
        return Engine(on_socket(socket_path()))
    return ServerEngine(spec.server, offer)


class ServerEngine(Engine):
    """The engine behind a ModelServer's gateway, asked as one of its users."""

    places = 2

    def __init__(
        self,
        server: ServerSpec,
        offer: Offer | None = None,
        first_wait: float = 0.5,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        key = _key(server)
        headers = _MARK | ({"Authorization": f"Bearer {key}"} if key else {})
        base_url = server.endpoint.removesuffix("/v1")
        super().__init__(
            httpx.AsyncClient(base_url=base_url, headers=headers, timeout=TIMEOUT),
            start_seconds=_BUSY_SECONDS,
            first_wait=first_wait,
        )
        self._server, self._offer, self._look_seconds = server, offer, look_seconds

    async def base_name(self) -> str:
        """The name of the server's base."""
        return self._server.model

    async def load_adapter(self, name: str, folder: Path) -> str:  # noqa: ARG002 - the server has its own
        """Offer the adapter and wait until the server holds it; UserError when it never will."""
        if self._offer is None:
            raise ValueError("a stage that loads an adapter needs an offer")
        digest = await asyncio.to_thread(self._offer)
        version = f"{self._server.candidate}--{digest.removeprefix('sha256:')[:12]}"
        try:
            async with asyncio.timeout(_HELD_SECONDS):
                while not await self._holds(version):  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(self._look_seconds)
        except TimeoutError as error:
            text = f"The ModelServer has not loaded the candidate within {_HELD_SECONDS / 3600:.0f} hours"
            raise EngineUnavailable(f"{text}; its status.candidates says why.") from error
        return version

    async def prompt_ids(self, model: str, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, as an answer of one token tells them."""
        only = {"max_tokens": 1, "return_token_ids": True, **GREEDY}
        answer = await self._send("POST", _CHAT, {"model": model, **prompt.to_chat(), **only})
        return [int(token) for token in answer["prompt_token_ids"]]

    async def tokens(self, model: str, text: str) -> list[int]:
        """The tokens of a text that goes on after a prompt, told in the same way."""
        only = {"max_tokens": 1, "return_token_ids": True, "add_special_tokens": False, **GREEDY}
        answer = await self._send("POST", "/v1/completions", {"model": model, "prompt": text, **only})
        return [int(token) for token in answer["choices"][0]["prompt_token_ids"]]

    async def text(self, model: str, ids: Sequence[int]) -> str:  # noqa: ARG002 - no route makes text of tokens
        """The tokens as numbers."""
        return " ".join(map(str, ids))

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """A server that is busy says so, and is asked again until it has room; so is one that does not know
        the model, as a replica does that has just started. Other refusals concern every question alike.
        """
        until = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return await super()._send(method, path, body)
            except EngineUnavailable:
                if time.monotonic() > until:
                    raise
            except Refused as refusal:
                if refusal.status in _OF_THE_REQUEST:
                    raise
                if (refusal.status, refusal.code) != (404, "model_not_found"):
                    raise UserError(f"The ModelServer refuses to answer: {refusal}") from refusal
                if time.monotonic() > until:
                    raise EngineUnavailable(f"The ModelServer does not answer: {refusal}") from refusal
                await asyncio.sleep(self._look_seconds)

    async def _holds(self, version: str) -> bool:
        """Whether the candidate answers; one that is not listed yet does not exist for the gateway."""
        body = {"model": version, "messages": [{"role": "user", "content": "."}], "max_tokens": 1}
        try:
            response = await self._http.post(_CHAT, json=body)
        except httpx.TransportError:
            return False
        self._heard()
        if response.status_code in _FINAL:
            raise UserError(f"The ModelServer refuses the candidate: {error_text(response)}")
        return response.status_code == 200


def _key(server: ServerSpec) -> str | None:
    if server.key is None:
        return None
    root = Path(os.environ.get("FT_CREDENTIALS_ROOT", "/etc/finetune/credentials"))
    return (root / "engine" / server.key).read_text(encoding="utf-8").strip()
